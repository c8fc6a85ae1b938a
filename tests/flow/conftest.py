"""A toy federation: components that count their calls, fail on demand and can go on from checkpoints."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from unseen.codec import message
from unseen.component import SOURCE, Component, Document, Input, Kind, Output, Params, Role, Source
from unseen.dialogue import checkpoint, receive_all, resume, send_all
from unseen.errors import DataError
from unseen.flow.builder import Flow
from unseen.ids import PartyId
from unseen.simulation import Options, simulate


class Number(Document):
    value: int


NUMBER = Kind("number", Number)


@message("toy/number")
class ToyNumber:
    value: int


@message("toy/state")
class ToyState:
    done: int
    total: int


class Plus(Params):
    plus: int = 0


class Rounds(Params):
    rounds: int = 4


@dataclass
class Toys:
    """The components, what they were called for, and the faults they are to show."""

    root: Path
    calls: Counter = field(default_factory=Counter)
    rounds: list = field(default_factory=list)
    """(party, round, secret word) of every round that ``grow`` ran."""
    fail_at: tuple = ()
    """(party, round) at which ``grow`` fails, once."""
    at_round: object = None
    """Called as ``at_round(party, round)``."""

    def measure(self, task):
        self.calls["measure", str(task.me)] += 1
        yield from ()
        return {"number": Number(value=int(task.input("source", Source).path.read_text()))}

    def total(self, task):
        self.calls[str(task.step), str(task.me)] += 1
        mine = task.input("number", Number).value
        yield from send_all(task.peers, ToyNumber(mine))
        theirs = yield from receive_all(task.peers, ToyNumber)
        return {"total": Number(value=mine + sum(it.value for it in theirs.values()) + task.parameters(Plus).plus)}

    def grow(self, task):
        self.calls["grow", str(task.me)] += 1
        state = yield from resume(ToyState, task.peers)
        state = state or ToyState(0, task.input("number", Number).value)
        for number in range(state.done + 1, task.parameters(Rounds).rounds + 1):
            word = int(task.prg.derive("round", bytes([number])).words(1)[0] % 10**6)
            self.rounds.append((str(task.me), number, word))
            self._trouble(task.me, number)
            yield from send_all(task.peers, ToyNumber(word))
            theirs = yield from receive_all(task.peers, ToyNumber)
            state = ToyState(number, state.total + word + sum(it.value for it in theirs.values()))
            yield from checkpoint(state)
        return {"grown": Number(value=state.total)}

    def judge(self, task):
        self.calls["judge", str(task.me)] += 1
        yield from ()
        return {"verdict": Number(value=-task.input("number", Number).value)} if task.is_active else {}

    def _trouble(self, party, number):
        if self.at_round:
            self.at_round(str(party), number)
        if self.fail_at == (party, number):
            self.fail_at = ()
            raise DataError(f"{party} stumbles in round {number}")

    @property
    def registry(self):
        number = {"number": Input(NUMBER, "a number")}
        parts = [
            ("measure", self.measure, Params, {"source": Input(SOURCE, "a file")}, {"number": Output(NUMBER, "it")}),
            ("total", self.total, Plus, number, {"total": Output(NUMBER, "the sum")}),
            ("grow", self.grow, Rounds, number, {"grown": Output(NUMBER, "the sum of all rounds")}),
            ("judge", self.judge, Params, number, {"verdict": Output(NUMBER, "minus it", at=Role.ACTIVE)}),
        ]
        return {name: Component(name, 1, f"toy {name}", p, i, o, (), run) for name, run, p, i, o in parts}

    def flow(self, *, plus=0, rounds=4, passive=("shop",)):
        """read → total, read → grow → judge: ``total`` and ``grow`` do not depend on each other."""
        flow = Flow("toy", active="bank", passive=passive)
        read = flow.step("read", "measure", source=flow.table("numbers"))
        flow.step("total", "total", number=read["number"], plus=plus)
        grow = flow.step("grow", "grow", number=read["number"], rounds=rounds)
        flow.step("judge", "judge", number=grow["grown"])
        return flow

    def table(self, party, value):
        path = self.root / f"{party}.txt"
        path.write_text(str(value))
        return {"numbers": path}

    def tables(self, **values):
        return {party: self.table(party, value) for party, value in (values or {"bank": 10, "shop": 3}).items()}

    def run(self, flow=None, tables=None, *, workspace=None, **options):
        return simulate(
            flow or self.flow(),
            tables or self.tables(),
            workspace=workspace or self.root / "ws",
            options=Options(registry=self.registry, **options),
        )

    def value(self, result, output, party="bank"):
        return result.get(output, party).value


def digests(result):
    """Return the digest of every value at every party."""
    return {
        (str(party), f"{step}.{port}"): ref.digest
        for party, steps in result.steps.items()
        for step, done in steps.items()
        for port, ref in done.outputs.items()
    }


@pytest.fixture
def toys(tmp_path):
    return Toys(tmp_path)


@pytest.fixture(name="digests")
def _digests():
    return digests


@pytest.fixture
def both():
    return [PartyId("bank"), PartyId("shop")]
