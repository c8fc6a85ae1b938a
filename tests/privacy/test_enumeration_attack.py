"""An attacker walks a space of telephone numbers through sessions with an owner who keeps guards in front of them.

The intersection itself is played by Python's sets: what is tested are the guards. Each test prints how many ids the
attacker recovered against its budget (``pytest -rP tests/privacy/test_enumeration_attack.py``), asserts that it got
nothing beyond what its points pay for, and runs the same attack without guards.

The attacker is one partner under one name. Whoever can join under many names gets as many budgets: admission to a
project is for people and signatures, not for arithmetic, and out of scope here.
"""

from datetime import UTC, datetime, timedelta
from math import sqrt

import numpy as np
import pytest

from unseen.ids import PartyId
from unseen.privacy.decisions import Allow, FromCache, Reason, Release, Result
from unseen.privacy.differencing import fingerprints
from unseen.privacy.enumeration import after, before, remaining
from unseen.privacy.facts import Request, Seen, SessionId, TableId, Thawed, Variant
from unseen.privacy.limits import Allowance, Limits

PARTNER, TABLE = PartyId("partner"), TableId("customers")
START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
SPACE, HELD = 100_000, 2_000
MEMBERS = frozenset(np.random.default_rng(1).choice(SPACE, HELD, replace=False).tolist())
KNOWN = sorted(MEMBERS)[:: HELD // 60][:60]
"""Customers of both, whom the attacker knows without asking; it recovers the others."""
SECRET = MEMBERS - set(KNOWN)
GROUP = sorted(SECRET)[:20] + [number for number in range(SPACE) if number not in MEMBERS][:980]
"""A thousand people about whom the attacker wants to know, in an order that is good for it: members first."""
EACH, TOTAL = 2_000, 6_000


def budget(**changes):
    fields = {
        "partner": PARTNER,
        "table": TABLE,
        "key_columns": ("phone",),
        "variants": frozenset(Variant),
        "valid_from": START,
        "valid_until": START + 365 * DAY,
        "points_per_session": EACH,
        "points_total": TOTAL,
    }
    return Allowance(**(fields | changes))


class Owner:
    """The owner's node: asks ``before`` and ``after``, records what they say, and counts what it evaluates."""

    def __init__(self, allowance=None, members=MEMBERS, *, careless=False):
        self.allowance, self.members, self.careless = allowance, members, careless
        self.limits = Limits(allowances=(allowance,)) if allowance else Limits()
        self.facts, self.kept, self.sessions, self.reasons = [], {}, 0, []
        self.points, self.probed = 0, set()

    @property
    def guarded(self):
        return self.allowance is not None

    def meet(self, ids, variant=Variant.INTERSECT, *, at=START, key=0, **said):
        """Return what the partner learns of ``ids``: shared ids, their number, or nothing."""
        self.sessions += 1
        ids = set(ids)
        answer = ids & self.members if variant is Variant.INTERSECT else len(ids & self.members)
        if not self.guarded:
            self.points += len(ids)
            return answer
        fields = {
            "partner": PARTNER,
            "session": SessionId(f"s-{self.sessions}"),
            "at": at,
            "table": TABLE,
            "key_columns": ("phone",),
            "variant": variant,
            "own_rows": len(self.members),
            "partner_rows": len(ids),
            "own_snapshot": "0a" * 32,
            "partner_snapshot": f"{self.sessions:064x}",
        }
        request = Request(**(fields | said))
        verdict = before(request, self.facts, self.limits)
        self.facts += verdict.records
        if isinstance(verdict, FromCache):
            return self.kept[verdict.session]
        if not isinstance(verdict, Allow):
            self.reasons.append(verdict.reason)
            return None
        return self._evaluate(request, ids, answer, key)

    def _evaluate(self, request, ids, answer, key):
        self.points += len(ids)
        self.probed |= ids
        words = fingerprints(blinded(ids, key))
        head = {"partner": PARTNER, "session": request.session, "at": request.at}
        self.facts.append(Seen(**head, fingerprints=words))
        size = answer if isinstance(answer, int) else len(answer)
        verdict = after(request, Result(request.at, size), self.facts, self.limits)
        self.facts += verdict.records
        self.kept[request.session] = answer
        if not isinstance(verdict, Release):
            self.reasons.append(verdict.reason)
        return answer if isinstance(verdict, Release) or self.careless else None

    def report(self, name, recovered, free, of):
        """Print the figures of one attack; assert what holds for each."""
        refused = ", ".join(sorted(set(self.reasons))) or "nothing"
        tell(
            f"{name}: recovered {len(recovered):,} of {of:,} ids; {self.points:,} points of a budget of "
            f"{self.allowance.points_total:,}; stopped by: {refused}; without guards {len(free):,} of {of:,}"
        )
        assert recovered <= self.members
        assert recovered <= self.probed, "an id that was never evaluated"
        assert self.points <= self.allowance.points_total
        assert len(recovered) <= self.points
        left = remaining(self.allowance, self.facts, START + 300 * DAY)
        assert left.points == self.allowance.points_total - self.points, "the journal holds every point"


def tell(figures):
    print(figures)  # noqa: T201  # what an attacker recovers against its budget is to be read, not only asserted


def blinded(ids, key):
    """Return points that are random to whoever does not know ``key``, and the same for the same id and key."""
    with np.errstate(over="ignore"):
        words = np.fromiter(ids, np.uint64) + np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))).astype("<u8").view(np.uint8).reshape(-1, 8)


def junk(count, turn=0):
    """Return numbers that nobody has."""
    return range(SPACE + turn * 10_000, SPACE + turn * 10_000 + count)


def walk(owner, block, *, pad=(), waste=0, every=timedelta(0)):
    """Ask about the whole space, block by block; return what became known."""
    found = set()
    for turn, start in enumerate(range(0, SPACE, block)):
        at = START + turn * every
        ids = {*range(start, min(start + block, SPACE)), *pad, *junk(waste, turn)}
        found |= owner.meet(ids, at=at, key=turn) or set()
    return found - set(KNOWN)


# --- who is shared -----------------------------------------------------------------------------------------------

WALKS = {
    "sequential blocks": {"block": EACH},
    "blocks padded with known members": {"block": EACH - 60, "pad": KNOWN},
    "few targets padded with junk and known members": {"block": 400, "pad": KNOWN, "waste": 600},
    "padded blocks, one a day": {"block": 1_000, "pad": KNOWN, "every": DAY},
}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_recovers_no_more_than_its_share_of_the_space(name):
    owner, free = Owner(budget()), walk(Owner(), **WALKS[name])
    recovered = walk(owner, **WALKS[name])
    owner.report(name, recovered, free, of=len(SECRET))
    assert free == SECRET
    share = TOTAL / SPACE
    assert len(recovered) <= len(SECRET) * share + 4 * sqrt(len(SECRET) * share)
    assert Reason.POINTS_TOTAL in owner.reasons


def test_blocks_without_known_members_find_too_few_to_be_told():
    owner = Owner(budget())
    assert walk(owner, EACH) == set()
    assert Reason.SMALL_INTERSECTION in owner.reasons


@pytest.mark.parametrize("careless", [False, True], ids=["result last", "result first"])
def test_sessions_that_are_broken_off_are_charged(careless):
    """A protocol in which the partner has its result before the owner can withhold it leaves the budget alone."""
    owner, free = Owner(budget(), careless=careless), walk(Owner(), EACH)
    recovered = walk(owner, EACH)
    owner.report(
        f"sequential blocks, {'nothing' if careless else 'everything'} can be withheld", recovered, free, of=len(SECRET)
    )
    assert (len(recovered) > 0) is careless
    assert recovered == (SECRET & owner.probed if careless else set())


def test_new_versions_names_and_repetitions_do_not_refill_the_budget():
    owner = Owner(budget())
    found = set()
    for turn in range(60):
        ids = {*range(turn * 1_000, turn * 1_000 + 1_000), *KNOWN}
        found |= owner.meet(ids, at=START + turn * DAY, own_snapshot=f"{turn:064x}") or set()
        # The list of before by its name, and other ids in it: what comes back is the old answer.
        last = {"own_snapshot": f"{turn:064x}", "partner_snapshot": f"{owner.sessions:064x}"}
        others = {*range(SPACE - turn * 1_000 - 1_000, SPACE - turn * 1_000), *KNOWN}
        found |= owner.meet(others, at=START + turn * DAY, partner_rows=len(ids), **last) or set()
    recovered = found - set(KNOWN)
    free = walk(Owner(), 1_000, pad=KNOWN)
    owner.report("new versions of tables, and old names for new lists", recovered, free, of=len(SECRET))
    assert len(owner.probed) == len({*range(5_000), *KNOWN})


def test_a_larger_walk_is_frozen_when_few_of_its_points_are_there():
    rng = np.random.default_rng(2)
    members = frozenset(rng.choice(10**6, 5_000, replace=False).tolist())
    allowance = budget(points_per_session=60_000, points_total=600_000, max_ratio=20)
    owner, free = Owner(allowance, members), Owner(members=members)
    walks = []
    for attacked in (owner, free):
        blocks = ({*range(start, start + 50_000)} for start in range(0, 10**6, 50_000))
        walks.append(set().union(*(attacked.meet(ids, at=START + turn * DAY) or () for turn, ids in enumerate(blocks))))
    owner.report("blocks of 50,000 with a budget for 60 % of the space", *walks, of=len(members))
    assert walks[1] == members
    assert len(owner.probed) == 150_000, "frozen as soon as more than 100,000 points can be judged"
    assert owner.reasons == [Reason.LOW_HIT_RATE] + [Reason.FROZEN] * 17
    assert len(walks[0]) < 0.12 * len(members)


# --- how many are shared -----------------------------------------------------------------------------------------


def one_by_one(owner, *, keys=False, vary=False, fill=True):
    """Count a list, and then with each target in it: one hit more, and the target is a member."""
    crowd = [*KNOWN, *(junk(940) if fill else ())]
    base, found = owner.meet(crowd, Variant.COUNT), set()
    for turn, target in enumerate(GROUP[:300], 1):
        ids = {*crowd, target, *(junk(11 * turn, turn=1) if vary else ())}
        size = owner.meet(ids, Variant.COUNT, at=START + turn * DAY, key=turn if keys else 0)
        if base is not None and size is not None and size > base:
            found.add(target)
    return found


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("one id swapped, one key", {}),
        ("one id swapped, a new key each time", {"keys": True}),
        ("one id swapped, a new key and another length each time", {"keys": True, "vary": True}),
    ],
)
def test_near_identical_lists_tell_about_no_more_people_than_there_are_sessions(name, how):
    owner, free = Owner(budget()), one_by_one(Owner(), fill=False)
    recovered = one_by_one(owner, **how)
    owner.report(name, recovered, free, of=20)
    assert free == SECRET & set(GROUP)
    if how.get("vary"):  # it steps over the tripwire; each id costs it a whole session
        assert 0 < len(recovered) <= TOTAL // 1_000 - 1
        assert Reason.POINTS_TOTAL in owner.reasons
    else:
        assert recovered == set()
        assert Reason.DIFFERENCING in owner.reasons


class Bisection:
    """Splits a group of targets until each part has none or only members.

    The baseline attack of X. Guo and others, "Birds of a Feather Flock Together: How Set Bias Helps to Deanonymize You
    via Revealed Intersection Sizes" (USENIX Security 2022). Here it also knows members and numbers that nobody has, to
    meet minima, and takes a new key and another length for each list.
    """

    def __init__(self, owner):
        self.owner, self.turn, self.members, self.others = owner, 0, set(), set()

    def count(self, targets):
        self.turn += 1
        waste = max(940 - len(targets), 0) + 11 * self.turn if self.owner.guarded else 0
        ids = {*targets, *KNOWN, *junk(waste, self.turn)}
        size = self.owner.meet(ids, Variant.COUNT, at=START + self.turn * DAY, key=self.turn)
        return None if size is None else size - len(KNOWN)

    def run(self, targets):
        """Classify as many targets as the owner lets it; return the members among them."""
        parts = [(targets, self.count(targets))]
        while parts:
            part, hits = parts.pop()
            if hits == 0:
                self.others.update(part)
            elif hits == len(part):
                self.members.update(part)
            elif hits is not None:
                left, right = part[: len(part) // 2], part[len(part) // 2 :]
                found = self.count(left)
                parts += [(right, None if found is None else hits - found), (left, found)]
        return self.members


@pytest.mark.parametrize("order", ["members first", "in any order"])
def test_bisection_by_counts_stops_with_the_budget(order):
    owner, free = Owner(budget()), Bisection(Owner())
    guarded = Bisection(owner)
    group = GROUP if order == "members first" else np.random.default_rng(3).permutation(GROUP).tolist()
    recovered, everything = guarded.run(group), free.run(group)
    owner.report(f"bisection by counts, {order}", recovered, everything, of=20)
    tell(
        f"bisection by counts, {order}: classified {len(guarded.members | guarded.others):,} of 1,000 people in "
        f"{guarded.turn} requests; without guards {len(free.members | free.others):,} in {free.turn}"
    )
    assert everything == SECRET & set(GROUP)
    assert free.members | free.others == set(GROUP)
    assert guarded.members | guarded.others <= owner.probed, "each person told costs a point or more"
    assert guarded.others.isdisjoint(MEMBERS)
    assert len(recovered) < len(everything)
    assert Reason.POINTS_TOTAL in owner.reasons


def test_a_list_of_members_that_are_known_is_not_counted():
    owner = Owner(budget())
    assert owner.meet(sorted(MEMBERS)[:1_500], Variant.COUNT) is None
    assert owner.reasons == [Reason.ONLY_HITS]


def test_only_the_owner_lifts_a_freeze():
    allowance = budget(points_per_session=60_000, points_total=600_000, max_ratio=100, probes_judged=50_000)
    owner = Owner(allowance)
    assert owner.meet(range(SPACE, SPACE + 50_001)) is None
    assert owner.meet({*KNOWN, *junk(2_000)}) is None
    assert owner.reasons == [Reason.LOW_HIT_RATE, Reason.FROZEN]
    owner.facts.append(Thawed(partner=PARTNER, session=SessionId("s-1"), at=START, by="Ada"))
    assert owner.meet({*KNOWN, *junk(2_000)}) == set(KNOWN)
