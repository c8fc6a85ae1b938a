"""Lays out a folder for every party of the demo: its own data, flow, certificate and configuration.

::

    unseen-demo/
      demo.json                what was prepared
      bank/                    party.yaml, flow.yaml, customers.csv, identity/, workspace/
      partner/                 …
      report.html, report.json what came out
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from unseen.clock import SystemClock
from unseen.data.demo import write_parties
from unseen.data.readers import read_table
from unseen.demo.flow import TABLE, Mode, credit_flow
from unseen.errors import DataError, UsageError
from unseen.flow.store import Workspace, write_file
from unseen.ids import JobId, PartyId
from unseen.transport.tls import issue, make_authority

JOB = JobId("demo")
CERTIFICATE_DAYS = 30
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo runs on, and how.

    ``data`` is a folder with one file per party (``bank.csv``, ``partner.csv``, …), named after the party; the one
    with a column ``y`` or ``label`` is the active party's. Without it the embedded data are used, of which ``rows``
    people are taken, if given.
    """

    out: Path
    data: Path | None = None
    rows: int | None = None
    mode: Mode = "linearised"
    scheme: str = "lattice"


class DemoPlan(BaseModel):
    """A demo that has been laid out and can be run, or resumed, from its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path
    active: PartyId
    passives: tuple[PartyId, ...]
    mode: Mode
    embedded: bool

    @property
    def parties(self) -> tuple[PartyId, ...]:
        """All parties, the active one first."""
        return (self.active, *self.passives)

    def workspace(self, party: PartyId) -> Workspace:
        """Return one party's workspace."""
        return Workspace(self.out / party / "workspace")

    @classmethod
    def read(cls, out: Path) -> DemoPlan:
        """Return the demo that was laid out in a folder.

        Raises:
            UsageError: There is none.
        """
        try:
            plan = cls.model_validate_json((out / "demo.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(f"there is no demo in {out}; run `unseen demo --out {out}` first") from error
        return plan.model_copy(update={"out": out})


def prepare(options: DemoOptions) -> DemoPlan:
    """Lay out a demo; an earlier one in the same folder is replaced.

    Raises:
        UsageError: The folder holds something else.
        DataError: ``options.data`` does not hold one table per party, exactly one of them with a label.
    """
    _make_room(options.out)
    files = _data_files(options)
    active, passives = _roles(files)
    plan = DemoPlan(out=options.out, active=active, passives=passives, mode=options.mode, embedded=options.data is None)
    flow = credit_flow(active, passives, mode=options.mode, scheme=options.scheme).spec
    authority = make_authority("Unseen demo", days=CERTIFICATE_DAYS, now=SystemClock().now())
    for party, file in files.items():
        home = options.out / party
        (home / "workspace").mkdir(parents=True)
        table = home / f"{TABLE}{file.suffix}"
        if file.parent != home:
            shutil.copyfile(file, table)
        (home / "flow.yaml").write_text(flow.to_yaml(), encoding="utf-8")
        issue(authority, party, days=CERTIFICATE_DAYS, now=SystemClock().now()).save(home / "identity")
        (home / "party.yaml").write_text(_party_yaml(plan, party, table.name), encoding="utf-8")
        # The seed of the job is drawn now, so that a demo that is killed at any moment resumes as the same job.
        plan.workspace(party).start_job(JOB, flow, SystemClock().now())
    write_file(options.out / "demo.json", plan.model_dump_json(indent=1).encode())
    return plan


def _party_yaml(plan: DemoPlan, party: PartyId, table: str) -> str:
    """Return a party's configuration; addresses are given when it is started."""
    dialled = plan.parties[: plan.parties.index(party)]
    config = {
        "party": str(party),
        "flow": "flow.yaml",
        "job": str(JOB),
        "workspace": "workspace",
        "identity": "identity",
        "tables": {TABLE: table},
        "peers": {str(peer): ("set-at-start:0" if peer in dialled else None) for peer in plan.parties if peer != party},
    }
    return yaml.safe_dump(config, sort_keys=False)


def _make_room(out: Path) -> None:
    if (out / "demo.json").exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and not a demo: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    if out.stat().st_uid != os.getuid():
        raise UsageError(f"{out} belongs to somebody else, who could read or change the demo: choose another folder")
    out.chmod(0o700)


def _data_files(options: DemoOptions) -> dict[PartyId, Path]:
    if options.data is None:
        source = options.out / "data"
        source.mkdir()
        write_parties(source, rows=options.rows)
    else:
        source = options.data
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; --data takes one with a CSV or Parquet file for each party")
    files = {PartyId(path.stem.lower()): path for path in sorted(source.iterdir()) if path.suffix in SUFFIXES}
    if len(files) < 2:
        raise DataError(f"{source} holds {len(files)} CSV or Parquet files, expected one each for two or more parties")
    return files


def _roles(files: Mapping[PartyId, Path]) -> tuple[PartyId, tuple[PartyId, ...]]:
    """Return the active party and the passive ones."""
    labelled = [party for party, path in files.items() if read_table(path)[0].schema.label is not None]
    if len(labelled) != 1:
        raise DataError(
            f"exactly one party's file has a label (a column y or label), found {len(labelled)}: "
            f"{', '.join(labelled) or 'none'} of {', '.join(str(path) for path in files.values())}"
        )
    return labelled[0], tuple(party for party in files if party != labelled[0])
