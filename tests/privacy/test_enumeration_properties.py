"""What holds whatever is asked, in whatever order: charges stay within budgets, and more facts never allow more.

The machine below plays a node with several partners, tables and columns: sessions are asked for, begin, fail, crash,
are released or withheld, run side by side, and facts are read back repeated and in any order.
"""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unseen.ids import PartyId
from unseen.privacy.decisions import Allow, Freeze, FromCache, Refuse, Release, Result, Withhold
from unseen.privacy.enumeration import after, before, remaining
from unseen.privacy.facts import (
    Began,
    Ended,
    Released,
    Request,
    Seen,
    SessionId,
    TableId,
    Thawed,
    Variant,
    read_fact,
    to_json,
)
from unseen.privacy.limits import Allowance, Limits

START = datetime(2026, 3, 2, tzinfo=UTC)
PARTNERS = [PartyId("one"), PartyId("two")]
TABLES = [TableId("customers"), TableId("staff")]
KEYS = [("phone",), ("mail",), ("phone", "mail")]
TOTAL, EACH = 250, 100
LIMITS = Limits(
    allowances=tuple(
        Allowance(
            partner=partner,
            table=table,
            key_columns=keys,
            variants=frozenset(Variant),
            valid_from=START,
            valid_until=START + timedelta(days=40),
            points_per_session=EACH,
            points_total=TOTAL,
            new_points_total=200,
            sessions_per_day=4,
            concurrent=2,
            min_own_rows=10,
            min_partner_rows=5,
            min_intersection=3,
            probes_judged=120,
            min_hit_rate=0.1,
            differencing_points=2,
        )
        for partner in PARTNERS
        for table in TABLES
        for keys in KEYS
    )
)


@st.composite
def requests(draw, name, at):
    digest = st.sampled_from(["0a" * 32, "0b" * 32, "0c" * 32])
    return Request(
        partner=draw(st.sampled_from(PARTNERS)),
        session=SessionId(name),
        at=at,
        table=draw(st.sampled_from(TABLES)),
        key_columns=draw(st.sampled_from(KEYS)),
        variant=draw(st.sampled_from(Variant)),
        own_rows=draw(st.sampled_from([5, 100])),
        partner_rows=draw(st.integers(0, EACH + 5)),
        own_snapshot=draw(digest),
        partner_snapshot=draw(digest),
    )


def prints(first, count):
    return np.arange(first, first + count, dtype="<u8").tobytes()


class Node(RuleBasedStateMachine):
    """One owner's node; ``evaluated`` is the truth that budgets have to bound."""

    def __init__(self):
        super().__init__()
        self.journal, self.now, self.count = [], START, 0
        self.running, self.frozen = [], []
        self.evaluated = Counter()
        self.out = Counter()

    @initialize(seed=st.integers(0, 2**32))
    def shuffle_by(self, seed):
        self.chance = random.Random(seed)

    def facts(self):
        """Read the journal back, repeated and in any order."""
        lines = self.journal + self.chance.sample(self.journal, len(self.journal) // 2)
        self.chance.shuffle(lines)
        return [read_fact(line, "journal") for line in lines]

    def record(self, facts):
        self.journal += map(to_json, facts)

    @rule(data=st.data(), lost=st.booleans())
    def ask(self, data, lost):
        self.count += 1
        request = data.draw(requests(f"s-{self.count}", self.now))
        verdict = before(request, self.facts(), LIMITS)
        assert isinstance(verdict, Allow | FromCache | Refuse)
        assert verdict == before(request, self.facts(), LIMITS), "the order of facts does not matter"
        self.record(verdict.records)
        if isinstance(verdict, FromCache):
            assert self.out[verdict.session] == 1, "only what went out is given again"
        if isinstance(verdict, Allow):
            self.running.append(request)
            if not lost:  # a crash after the charge, before the first point
                self.evaluated.update(
                    {(request.partner, request.table, column): request.partner_rows for column in request.key_columns}
                )

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        request = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        head = {"partner": request.partner, "session": request.session, "at": self.now}
        if data.draw(st.booleans()):
            self.record([Seen(**head, fingerprints=prints(data.draw(st.integers(0, 50)), request.partner_rows))])
        if data.draw(st.integers(0, 3)) == 0:
            self.record([Ended(**head, how="failed")])
            return
        size = data.draw(st.integers(0, min(request.own_rows, request.partner_rows)))
        verdict = after(request, Result(self.now, size), self.facts(), LIMITS)
        assert isinstance(verdict, Release | Withhold | Freeze)
        assert verdict == after(request, Result(self.now, size), self.facts(), LIMITS)
        self.record(verdict.records)
        if isinstance(verdict, Release):
            self.out[request.session] += 1
        if isinstance(verdict, Freeze):
            self.frozen.append(request)

    @precondition(lambda self: self.frozen)
    @rule()
    def lift(self):
        request = self.frozen.pop()
        self.record([Thawed(partner=request.partner, session=request.session, at=self.now, by="Ada")])

    @rule(hours=st.integers(-2, 30))
    def wait(self, hours):
        self.now = max(START, self.now + timedelta(hours=hours))

    @invariant()
    def no_budget_is_exceeded(self):
        assert all(points <= TOTAL for points in self.evaluated.values()), self.evaluated

    @invariant()
    def what_remains_is_what_the_next_session_gets(self):
        facts = [read_fact(line, "journal") for line in self.journal]
        for allowance in LIMITS.allowances:
            left = remaining(allowance, facts, self.now)
            asked = [fact for fact in facts if isinstance(fact, Request)]
            began = {fact.session for fact in facts if isinstance(fact, Began)}
            charged = sum(
                fact.partner_rows
                for fact in asked
                if fact.session in began
                and (fact.partner, fact.table) == (allowance.partner, allowance.table)
                and set(fact.key_columns) & set(allowance.key_columns)
            )
            assert left.points == max(TOTAL - charged, 0)
            assert left.frozen == () or any(request.session in left.frozen for request in self.frozen)


Node.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNode = Node.TestCase


# --- more facts never allow more -----------------------------------------------------------------------------------


@st.composite
def histories(draw):
    """Return the facts of a few sessions, in groups, one for each session."""
    groups = []
    for index in range(draw(st.integers(0, 6))):
        at = START + timedelta(hours=draw(st.integers(0, 40)))
        request = draw(requests(f"s-{index}", at))
        head = {"partner": request.partner, "session": request.session, "at": at}
        group = [request, *draw(st.sampled_from([[], [Began(**head)]]))]
        if len(group) == 2:
            group += draw(
                st.sampled_from(
                    [
                        [],
                        [Released(**head, size=4)],
                        [Ended(**head, how="failed")],
                        [Ended(**head, how="withheld", size=1)],
                    ]
                )
            )
        groups.append(group)
    return groups


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_sessions_more_never_allow_more(groups, data):
    request = data.draw(requests("s-99", START + timedelta(hours=data.draw(st.integers(0, 40)))))
    some = data.draw(st.lists(st.sampled_from(groups), unique_by=id)) if groups else []
    all_facts, fewer = [fact for group in groups for fact in group], [fact for group in some for fact in group]
    if isinstance(before(request, all_facts, LIMITS), Allow):
        assert isinstance(before(request, fewer, LIMITS), Allow)


@settings(max_examples=100, deadline=None)
@given(histories(), st.data())
def test_facts_of_others_do_not_matter(groups, data):
    request = data.draw(requests("s-99", START + timedelta(hours=1)))
    facts = [fact for group in groups for fact in group]
    own = {fact.session for fact in facts if isinstance(fact, Request) and fact.partner == request.partner}
    near = {fact.session for fact in facts if isinstance(fact, Request) and fact.table == request.table}
    mine = [fact for fact in facts if fact.session in own & near]
    assert before(request, facts, LIMITS) == before(request, mine, LIMITS)
