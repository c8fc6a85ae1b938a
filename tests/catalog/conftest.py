"""Runs one component at all its parties, without a flow around it."""

from collections.abc import Mapping

import polars as pl
import pytest

from unseen.component import Role, Task
from unseen.crypto.prg import Prg
from unseen.data.demo import make_parties
from unseen.data.schema import Column, Schema
from unseen.data.schema import Kind as ColumnKind
from unseen.data.schema import Role as ColumnRole
from unseen.data.table import Table
from unseen.dialogue import converse
from unseen.ids import PartyId, StepId


@pytest.fixture(scope="session")
def run_step():
    def run(component, inputs: Mapping, params=None, *, active="bank", simulated=True):
        roles = {PartyId(party): Role.ACTIVE if party == active else Role.PASSIVE for party in inputs}
        tasks = {
            party: Task(
                me=party,
                step=StepId("step"),
                roles=roles,
                params=component.params.model_validate(params or {}),
                inputs=inputs[party],
                prg=Prg(bytes(32)).derive("party", party.encode()),
                simulated=simulated,
            )
            for party in roles
        }
        return converse({party: component.run(task) for party, task in tasks.items()})

    return run


@pytest.fixture(scope="session")
def table_of():
    """Make a table of ``{column: values}``: id is the id, y the label, all others real features."""

    def make(columns):
        roles = {"id": (ColumnRole.ID, ColumnKind.TEXT), "y": (ColumnRole.LABEL, ColumnKind.INTEGER)}
        other = (ColumnRole.FEATURE, ColumnKind.REAL)
        schema = Schema(tuple(Column(name, *roles.get(name, other)) for name in columns))
        return Table.from_frame(pl.DataFrame(columns, strict=False), schema)

    return make


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory):
    """The demo's two tables of 300 people as CSV files."""
    folder = tmp_path_factory.mktemp("demo")
    for party, frame in make_parties(rows=300).items():
        frame.write_csv(folder / f"{party}.csv")
    return {party: folder / f"{party}.csv" for party in ("bank", "partner")}
