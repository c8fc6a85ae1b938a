"""Runs the command line in this process and catches what it prints."""

import sys
from dataclasses import dataclass

import pytest

from unseen.cli.main import main
from unseen.data.demo import make_parties

FLOW = """\
name: small
parties: {bank: active, partner: passive}
tables:
  customers: {bank: bank.csv, partner: partner.csv}
steps:
  read: {use: read_table, in: {source: tables.customers}}
  align: {use: psi_join, in: {table: read.table}}
  split: {use: split, in: {table: align.table}, params: {test: 0.3}}
  scale: {use: standardise, in: {table: split.train}}
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def unseen(monkeypatch, capsys):
    """Run ``unseen`` with these arguments."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unseen", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def flow_text():
    return FLOW


@pytest.fixture(scope="session")
def _people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for party, frame in make_parties(rows=200).items():
        frame.write_csv(folder / f"{party}.csv")
    return folder


@pytest.fixture
def project(tmp_path, _people):
    """A folder with a flow and its tables."""
    (tmp_path / "flow.yaml").write_text(FLOW)
    for party in ("bank", "partner"):
        (tmp_path / f"{party}.csv").write_bytes((_people / f"{party}.csv").read_bytes())
    return tmp_path
