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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from unseen.clock import SystemClock
from unseen.data.atomic import whole_file
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
QUARANTINE = ".quarantine."
"""In the names of files that lenient reading has put beside a table."""


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
    mode: Mode | None = None
    """Private by default if it can be: with one passive party and the lattice scheme; else linearised."""
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
        UsageError: The folder holds something else, or the data lie in it.
        DataError: ``options.data`` does not hold one table per party, exactly one of them with a label.
    """
    if options.data is None:
        _make_room(options.out)
        files = {PartyId(name): path for name, path in write_parties(options.out / "data", rows=options.rows).items()}
        active, passives = _roles(files)
    else:
        if options.rows is not None:
            raise UsageError("--rows takes some of the embedded people, --data brings others: leave one of them out")
        files = _data_files(options.data, options.out)
        active, passives = _roles(files)
        _make_room(options.out)  # only now: what cannot run must not cost an earlier demo
    possible: Mode = "private" if len(passives) == 1 and options.scheme != "paillier" else "linearised"
    mode = options.mode or possible
    plan = DemoPlan(out=options.out, active=active, passives=passives, mode=mode, embedded=options.data is None)
    flow = credit_flow(active, passives, mode=mode, scheme=options.scheme).spec
    authority = make_authority("Unseen demo", days=CERTIFICATE_DAYS, now=SystemClock().now())
    for party, file in files.items():
        home = options.out / party
        (home / "workspace").mkdir(parents=True)
        table = home / f"{TABLE}{file.suffix}"
        with file.open("rb") as source, whole_file(table) as target:
            shutil.copyfileobj(source, target)
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
    """Empty the folder; whenever this or what follows is interrupted, it is still known as a demo that may go."""
    plan = out / "demo.json"
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not plan.exists())):
        raise UsageError(f"{out} is not empty and not a demo: choose another folder with --out")
    _refuse_loss(out)
    out.mkdir(parents=True, exist_ok=True)
    if out.stat().st_uid != os.getuid():
        raise UsageError(f"{out} belongs to somebody else, who could read or change the demo: choose another folder")
    out.chmod(0o700)
    write_file(plan, b"{}")
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != plan:
            path.unlink()


def _refuse_loss(out: Path) -> None:
    """Raise ``UsageError`` if the demo in a folder is running or could be resumed."""
    try:
        plan = DemoPlan.read(out)
        workspaces = [plan.workspace(party) for party in plan.parties]
        with ExitStack() as locks:
            for workspace in workspaces:
                locks.enter_context(workspace.locked())
        records = [workspace.job(JOB) for workspace in workspaces]
    except DataError:
        return  # damaged beyond resuming
    except UsageError:
        if (out / "demo.json").exists() and (out / "demo.json").read_bytes() != b"{}":
            raise
        return  # there is none, or its layout was interrupted
    if any(record.steps and record.state != "finished" for record in records):
        raise UsageError(
            f"{out} holds a demo that is not finished: go on with `unseen resume {out}`, or remove the folder first"
        )


def _data_files(source: Path, out: Path) -> dict[PartyId, Path]:
    """Return the file of every party, which is called like it."""
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; --data takes one with a CSV or Parquet file for each party")
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{source} lies in {out}, which the demo empties: choose another folder with --out")
    files: dict[PartyId, Path] = {}
    for path in sorted(source.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and QUARANTINE not in path.name:
            party = _party_of(path)
            if party in files:
                raise DataError(f"{files[party]} and {path} are both of {party}: leave one of them out")
            files[party] = path
    if len(files) < 2:
        raise DataError(f"{source} holds {len(files)} CSV or Parquet files, expected one each for two or more parties")
    return files


def _party_of(path: Path) -> PartyId:
    try:
        return PartyId(path.stem.lower())
    except UsageError as error:
        raise UsageError(f"{path}: a file is called like its party, and {error}; rename it") from error


def _roles(files: Mapping[PartyId, Path]) -> tuple[PartyId, tuple[PartyId, ...]]:
    """Return the active party and the passive ones."""
    labelled = [party for party, path in files.items() if read_table(path)[0].schema.label is not None]
    if len(labelled) != 1:
        raise DataError(
            f"exactly one party's file has a label (a column y or label), found {len(labelled)}: "
            f"{', '.join(labelled) or 'none'} of {', '.join(str(path) for path in files.values())}"
        )
    return labelled[0], tuple(party for party in files if party != labelled[0])
