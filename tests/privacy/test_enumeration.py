from datetime import timedelta
from itertools import permutations

import numpy as np
import pytest

from unseen.errors import DataError, UsageError
from unseen.privacy.decisions import Allow, Freeze, FromCache, Reason, Refuse, Release, Result, Withhold
from unseen.privacy.enumeration import after, before, remaining
from unseen.privacy.facts import Began, Ended, Froze, Released, SessionId, TableId, Thawed, Variant
from unseen.privacy.limits import Limits

HOUR = timedelta(hours=1)


def prints(words):
    return np.array(sorted(words), "<u8").tobytes()


def refused(verdict, reason, *words):
    assert isinstance(verdict, Refuse), verdict
    assert verdict.reason == reason
    for word in words:
        assert word in verdict.message
    return True


def kept_back(verdict, reason, *words):
    assert isinstance(verdict, Withhold), verdict
    assert verdict.reason == reason
    for word in words:
        assert word in verdict.message
    return True


# --- before ------------------------------------------------------------------------------------------------------


def test_a_session_within_its_limits_is_charged_before_it_begins(world):
    request = world.asked()
    verdict = before(request, [], world.limits())
    assert verdict == Allow((request, Began(partner=world.partner, session=request.session, at=world.noon)))
    assert remaining(world.allowance(), verdict.records, world.noon).points == 4_000


def test_without_limits_everything_is_refused(world):
    verdict = before(world.asked(), [], Limits())
    assert refused(verdict, Reason.NOT_ALLOWED, "partner asked for intersect on customers (phone)", "ask the owner")
    assert verdict.records == (world.asked(),), "what was refused is recorded, and costs nothing"
    for change in (
        {"variant": Variant.LOOKUP},
        {"partner": world.other},
        {"table": TableId("staff")},
        {"key_columns": ("phone", "name")},
    ):
        limits = world.limits(variants=frozenset({Variant.INTERSECT}))
        assert refused(before(world.asked(**change), [], limits), Reason.NOT_ALLOWED)


@pytest.mark.parametrize(
    ("change", "limit", "reason", "words"),
    [
        ({"partner_rows": 2_001}, {}, Reason.POINTS_PER_SESSION, ["2,001 points", "at most 2,000 in a session"]),
        ({"own_rows": 999, "partner_rows": 1_000}, {}, Reason.TOO_FEW_OWN_ROWS, ["999 rows", "1,000 or more"]),
        ({"partner_rows": 999}, {}, Reason.TOO_FEW_PARTNER_ROWS, ["999 rows", "more people at once"]),
        ({"own_rows": 1_000}, {"max_ratio": 1.5}, Reason.RATIO, ["2,000 rows for 1,000", "1.5 for each"]),
        ({}, {"sessions_per_day": 0}, Reason.SESSIONS_PER_DAY, ["began 0 sessions", "ask again later"]),
        ({}, {"concurrent": 0}, Reason.CONCURRENT, ["0 may run at once"]),
        ({"owner_learns": False}, {}, Reason.UNKNOWN_SIZE, ["unknown_size"]),
    ],
)
def test_each_limit_refuses_and_says_what_was_asked_and_what_to_do(world, change, limit, reason, words):
    assert refused(before(world.asked(**change), [], world.limits(**limit)), reason, *words)


def test_limits_are_met_by_what_is_just_within_them(world):
    limits = world.limits(max_ratio=1.0, min_own_rows=2_000, min_partner_rows=2_000, unknown_size=True)
    assert isinstance(before(world.asked(own_rows=2_000, owner_learns=False), [], limits), Allow)


def test_limits_hold_from_a_moment_until_another(world):
    limits = world.limits(valid_from=world.noon, valid_until=world.noon + HOUR)
    assert isinstance(before(world.asked(), [], limits), Allow)
    assert isinstance(before(world.asked(at=world.noon + HOUR - timedelta(seconds=1)), [], limits), Allow)
    for late in (-timedelta(seconds=1), HOUR):
        assert refused(before(world.asked(at=world.noon + late), [], limits), Reason.NOT_VALID_NOW, "renew")


def test_the_budget_in_all_counts_failed_withheld_and_running_sessions(world):
    facts = [
        *world.failed(world.asked("s-1", partner_rows=2_000)),
        *world.released(world.asked("s-2", partner_rows=1_500, partner_snapshot="0c" * 32)),
        *world.began(world.asked("s-3", partner_rows=1_000, partner_snapshot="0d" * 32)),
    ]
    limits = world.limits(concurrent=2)
    verdict = before(world.asked("s-4", partner_rows=1_501), facts, limits)
    assert refused(verdict, Reason.POINTS_TOTAL, "1,501 points", "1,500 of 6,000 are left", "larger budget")
    assert isinstance(before(world.asked("s-4", partner_rows=1_500), facts, limits), Allow)


def test_the_budget_follows_the_table_through_its_versions_and_the_column_into_other_keys(world):
    both, one = ("phone", "birthday"), ("birthday",)
    limits = Limits(allowances=tuple(world.allowance(key_columns=keys) for keys in (both, one, ("phone",), ("mail",))))
    facts = [
        *world.failed(world.asked("s-1", key_columns=both)),
        *world.failed(world.asked("s-2", key_columns=("phone",), own_snapshot="1a" * 32)),
        *world.failed(world.asked("s-3", key_columns=("birthday", "phone"))),
    ]
    assert refused(before(world.asked("s-4"), facts, limits), Reason.POINTS_TOTAL, "0 of 6,000")
    assert refused(before(world.asked("s-4", key_columns=both), facts, limits), Reason.POINTS_TOTAL)
    assert isinstance(before(world.asked("s-4", key_columns=one), facts, limits), Allow), "4,000 are spent there"
    assert isinstance(before(world.asked("s-4", key_columns=("mail",)), facts, limits), Allow)


def test_a_name_is_used_once(world):
    for facts in ([world.asked()], world.began(world.asked()), world.released(world.asked())):
        verdict = before(world.asked(partner_rows=1_200), facts, world.limits())
        assert refused(verdict, Reason.NAME_USED, "s-1", "new name")
        assert verdict.records == (), "another fact of this name would make the facts contradict each other"


def test_sessions_of_the_last_24_hours_count_and_those_of_the_future_too(world):
    limits = world.limits(sessions_per_day=2, points_total=100_000)
    early = world.failed(world.asked("s-1", at=world.noon - 24 * HOUR))
    late = world.failed(world.asked("s-2", at=world.noon - 23 * HOUR))
    ahead = world.failed(world.asked("s-3", at=world.noon + 50 * HOUR))
    assert isinstance(before(world.asked("s-4"), [*early, *late], limits), Allow)
    assert refused(before(world.asked("s-4"), [*late, *ahead], limits), Reason.SESSIONS_PER_DAY, "began 2 sessions")


def test_one_session_runs_at_a_time_until_it_is_over(world):
    running = world.began(world.asked("s-1"))
    assert refused(before(world.asked("s-2"), running, world.limits()), Reason.CONCURRENT, "s-1")
    assert isinstance(before(world.asked("s-2"), world.failed(world.asked("s-1")), world.limits()), Allow)


def test_the_same_two_versions_give_the_same_result_at_no_charge(world):
    facts = world.released(world.asked("s-1"))
    again = world.asked("s-2", at=world.noon + HOUR)
    verdict = before(again, facts, world.limits())
    assert verdict == FromCache(SessionId("s-1"), (again,))
    now = world.noon + HOUR
    assert remaining(world.allowance(), [*facts, *verdict.records], now) == remaining(world.allowance(), facts, now)
    spent = world.limits(points_total=2_000, sessions_per_day=1)
    assert isinstance(before(again, facts, spent), FromCache), "no budget is needed for what is known already"


@pytest.mark.parametrize(
    "change",
    [
        {"own_snapshot": "1a" * 32},
        {"partner_snapshot": "1b" * 32},
        {"variant": Variant.COUNT},
        {"value_columns": ("income",)},
        {"partner_rows": 1_999},
        {"own_rows": 10_001},
        {"partner_learns": False},
    ],
)
def test_anything_else_is_a_new_session_that_is_charged(world, change):
    assert isinstance(before(world.asked("s-2", **change), world.released(world.asked("s-1")), world.limits()), Allow)


def test_the_order_of_columns_makes_no_new_question(world):
    limits = world.limits(key_columns=("phone", "birthday"))
    facts = world.released(world.asked("s-1", key_columns=("phone", "birthday"), value_columns=("x", "y")))
    again = world.asked("s-2", key_columns=("birthday", "phone"), value_columns=("y", "x"))
    assert isinstance(before(again, facts, limits), FromCache)


def test_only_released_results_are_given_again_and_only_while_the_limits_hold(world):
    again = world.asked("s-2", at=world.noon + HOUR)
    assert isinstance(before(again, world.failed(world.asked("s-1")), world.limits()), Allow)
    ended = world.limits(valid_until=world.noon + HOUR)
    assert refused(before(again, world.released(world.asked("s-1")), ended), Reason.NOT_VALID_NOW)


def test_a_freeze_stops_the_partner_at_this_table_until_it_is_lifted(world):
    head = {"partner": world.partner, "session": SessionId("s-1")}
    facts = [*world.failed(world.asked("s-1")), Froze(**head, at=world.noon)]
    for change in ({}, {"key_columns": ("mail",)}):
        limits = world.limits(**change)
        assert refused(before(world.asked("s-2", **change), facts, limits), Reason.FROZEN, "s-1", "lift")
    other = world.limits(table=TableId("staff"))
    assert isinstance(before(world.asked("s-2", table=TableId("staff")), facts, other), Allow)
    lifted = [*facts, Thawed(**head, at=world.noon, by="Ada")]
    assert isinstance(before(world.asked("s-2"), lifted, world.limits()), Allow)


def test_new_points_are_those_that_no_session_had(world):
    limits = world.limits(new_points_total=2_500, points_total=100_000)
    first, second = world.asked("s-1"), world.asked("s-2", partner_snapshot="0c" * 32)
    facts = [*world.released(first), world.seen(first, prints(range(2_000)))]
    again = [*facts, *world.began(second), world.seen(second, prints(range(400, 2_400)))]
    assert isinstance(after(second, Result(world.noon, 500), again, limits), Release), "2,400 in all"
    rekeyed = [*facts, *world.began(second), world.seen(second, prints(range(5_000, 7_000)))]
    unseen = [*facts, *world.began(second)]
    for more in (rekeyed, unseen):
        assert kept_back(after(second, Result(world.noon, 500), more, limits), Reason.NEW_POINTS, "4,000 different")
        third = world.asked("s-3", partner_snapshot="0d" * 32)
        assert refused(before(third, more, limits), Reason.NEW_POINTS, "2,500 are allowed")


# --- after -------------------------------------------------------------------------------------------------------


def judged(world, size, *, facts=(), seen=None, limits=None, **changes):
    request = world.asked("s-9", **changes)
    own = [*world.began(request), *([world.seen(request, seen)] if seen else [])]
    return after(request, Result(world.noon + HOUR, size), [*facts, *own], limits or world.limits())


def test_a_result_within_its_limits_goes_out_once_that_is_recorded(world):
    released = Released(partner=world.partner, session=SessionId("s-9"), at=world.noon + HOUR, size=50)
    assert judged(world, 50) == Release((released,))


def test_a_result_of_a_session_that_was_not_charged_stays_here(world):
    result, limits = Result(world.noon, 500), world.limits()
    assert kept_back(after(world.asked(), result, [], limits), Reason.NOT_CHARGED)
    assert kept_back(after(world.asked(), result, [world.asked()], limits), Reason.NOT_CHARGED)
    charged = world.began(world.asked(partner_rows=1_000))
    assert kept_back(after(world.asked(partner_rows=2_000), result, charged, limits), Reason.NOT_CHARGED)


def test_a_session_has_one_result(world):
    for facts in (world.released(world.asked()), world.failed(world.asked())):
        verdict = after(world.asked(), Result(world.noon, 500), facts, world.limits())
        assert kept_back(verdict, Reason.NAME_USED)
        assert verdict.records == ()


def test_what_is_withheld_is_recorded_with_its_size_and_stays_charged(world):
    verdict = judged(world, 49)
    assert kept_back(verdict, Reason.SMALL_INTERSECTION, "found 49 rows", "50 or more")
    ended = Ended(partner=world.partner, session=SessionId("s-9"), at=world.noon + HOUR, how="withheld", size=49)
    assert verdict.records == (ended,)
    facts = [*world.began(world.asked("s-9")), ended]
    assert remaining(world.allowance(), facts, world.noon).points == 4_000


def test_limits_that_end_or_are_taken_back_during_a_session_hold_for_its_result(world):
    assert kept_back(judged(world, 500, limits=Limits()), Reason.NOT_ALLOWED)
    ended = world.limits(valid_until=world.noon + HOUR)
    assert kept_back(judged(world, 500, limits=ended), Reason.NOT_VALID_NOW)
    froze = Froze(partner=world.partner, session=SessionId("s-1"), at=world.noon)
    assert kept_back(judged(world, 500, facts=[*world.failed(world.asked("s-1")), froze]), Reason.FROZEN)


def test_an_unknown_size_needs_a_limit_that_admits_it(world):
    assert kept_back(judged(world, None), Reason.UNKNOWN_SIZE)
    assert isinstance(judged(world, None, limits=world.limits(unknown_size=True), variant=Variant.SUM), Release)


def test_a_short_list_of_hits_only_is_withheld(world):
    assert isinstance(judged(world, 1_900), Release)
    assert kept_back(judged(world, 1_901), Reason.ONLY_HITS, "1,901 of 2,000", "at most 95%")
    assert kept_back(judged(world, 1_901, limits=world.limits(short_list=2_000)), Reason.ONLY_HITS)
    assert isinstance(judged(world, 1_901, limits=world.limits(short_list=1_999)), Release)


def test_a_result_may_not_cover_more_of_the_own_table_than_allowed(world):
    limits = world.limits(max_own_share=0.1)
    assert isinstance(judged(world, 1_000, limits=limits), Release)
    assert kept_back(judged(world, 1_001, limits=limits), Reason.OWN_SHARE, "1,001 of 10,000", "10%")


@pytest.mark.parametrize("size", [-1, 2_001])
def test_sizes_that_cannot_be_are_refused(world, size):
    with pytest.raises(UsageError, match="expected 0 to 2000"):
        judged(world, size)


def test_few_hits_among_many_points_freeze_however_they_are_split(world):
    limits = world.limits(points_per_session=60_000, points_total=10**6)
    earlier = world.released(world.asked("s-1", partner_rows=60_000, partner_snapshot="0c" * 32), size=500)
    assert isinstance(judged(world, 500, limits=limits, partner_rows=60_000), Release), "60,000 are too few to judge"
    verdict = judged(world, 600, limits=limits, facts=earlier, partner_rows=60_000)
    assert isinstance(verdict, Freeze)
    assert verdict.reason == Reason.LOW_HIT_RATE
    assert "120,000 points on customers (phone) and 1,100 of them" in verdict.message
    assert {type(fact) for fact in verdict.records} == {Ended, Froze}
    assert isinstance(judged(world, 700, limits=limits, facts=earlier, partner_rows=60_000), Release), "just 1 %"


def test_points_are_judged_anew_after_a_freeze_was_lifted(world):
    limits = world.limits(points_per_session=200_000, points_total=10**6, max_ratio=100)
    request = world.asked("s-1", partner_rows=150_000)
    head = {"partner": world.partner, "session": SessionId("s-1")}
    frozen = [*world.failed(request, size=100), Froze(**head, at=world.noon + HOUR / 2)]
    lifted = [*frozen, Thawed(**head, at=world.noon + HOUR / 2, by="Ada")]
    assert isinstance(judged(world, 100, limits=limits, facts=lifted, partner_rows=90_000), Release)
    assert isinstance(judged(world, 100, limits=limits, facts=frozen, partner_rows=90_000), Freeze)


# --- differencing ------------------------------------------------------------------------------------------------


def counted(world, size=500, **changes):
    request = world.asked("s-1", **({"variant": Variant.COUNT, "partner_snapshot": "0c" * 32} | changes))
    return [*world.released(request, size), world.seen(request, prints(range(2_000)))]


@pytest.mark.parametrize("variant", [Variant.COUNT, Variant.SUM, Variant.UNION])
@pytest.mark.parametrize(
    ("words", "rows"), [(range(1, 2_000), 1_999), (range(1, 2_001), 2_000), (range(10, 2_010), 2_000)]
)
def test_aggregates_over_near_identical_lists_are_withheld(world, variant, words, rows):
    verdict = judged(world, 650, facts=counted(world), seen=prints(words), variant=variant, partner_rows=rows)
    assert kept_back(verdict, Reason.DIFFERENCING, "at most 10 points from s-1", "differ by more")


def test_lists_that_differ_enough_are_let_through(world):
    count = {"facts": counted(world), "variant": Variant.COUNT}
    assert isinstance(judged(world, 650, seen=prints(range(11, 2_011)), **count), Release)
    off = world.limits(differencing_points=0)
    assert isinstance(judged(world, 650, seen=prints(range(1, 2_001)), limits=off, **count), Release)


def test_who_is_shared_may_be_asked_again_after_a_small_change(world):
    verdict = judged(world, 501, facts=counted(world, variant=Variant.INTERSECT), seen=prints(range(1, 2_001)))
    assert isinstance(verdict, Release), "the partner sees which rows are shared; the points are charged"


def test_a_new_key_hides_points_but_not_sizes(world):
    count = {"facts": counted(world), "variant": Variant.COUNT, "seen": prints(range(10**6, 10**6 + 2_000))}
    for size in (500, 501):
        assert kept_back(judged(world, size, **count), Reason.DIFFERENCING, "s-1")
    assert isinstance(judged(world, 511, **count), Release)


def test_two_lists_that_make_up_a_third_are_found_by_their_sizes(world):
    first = world.asked("s-1", variant=Variant.COUNT, partner_rows=1_000, partner_snapshot="0c" * 32)
    whole = world.asked("s-2", variant=Variant.COUNT, partner_rows=2_000, partner_snapshot="0d" * 32)
    facts = [*world.released(first, 200), *world.released(whole, 421)]
    verdict = judged(world, 220, facts=facts, variant=Variant.COUNT, partner_rows=1_001)
    assert kept_back(verdict, Reason.DIFFERENCING, "s-1 and s-2")


def test_a_change_of_few_own_rows_is_found_too(world):
    count = {"variant": Variant.COUNT, "partner_snapshot": "0c" * 32, "seen": prints(range(2_000))}
    one_more = judged(world, 501, facts=counted(world), own_snapshot="1a" * 32, own_rows=10_001, **count)
    assert kept_back(one_more, Reason.DIFFERENCING)
    many_more = judged(world, 501, facts=counted(world), own_snapshot="1a" * 32, own_rows=10_100, **count)
    assert isinstance(many_more, Release)


def test_a_sum_may_follow_a_count_over_the_same_lists(world):
    same = {"partner_snapshot": "0c" * 32, "seen": prints(range(2_000)), "facts": counted(world)}
    assert isinstance(judged(world, 500, variant=Variant.SUM, value_columns=("income",), **same), Release)
    assert kept_back(judged(world, 501, variant=Variant.SUM, **same), Reason.DIFFERENCING), "they are not the same"


def test_a_result_that_went_out_stays_out_if_its_session_fails_afterwards(world):
    failed = Ended(partner=world.partner, session=SessionId("s-1"), at=world.noon + HOUR, how="failed")
    again = judged(world, 501, facts=[*counted(world), failed], variant=Variant.COUNT)
    assert kept_back(again, Reason.DIFFERENCING, "s-1")


def test_withheld_results_are_nothing_to_compare_with(world):
    request = world.asked("s-1", variant=Variant.COUNT, partner_snapshot="0c" * 32)
    facts = [*world.failed(request, size=500), world.seen(request, prints(range(2_000)))]
    verdict = judged(world, 500, facts=facts, seen=prints(range(1, 2_001)), variant=Variant.COUNT)
    assert isinstance(verdict, Release)


# --- facts -------------------------------------------------------------------------------------------------------


def test_facts_in_any_order_and_repeated_say_the_same(world):
    facts = [*world.released(world.asked("s-1")), *world.began(world.asked("s-2"))]
    request, limits = world.asked("s-3", partner_snapshot="0c" * 32), world.limits(concurrent=2)
    verdicts = {before(request, order, limits) for order in permutations(facts)}
    verdicts.add(before(request, facts * 3, limits))
    assert len(verdicts) == 1
    assert isinstance(verdicts.pop(), Allow)


def test_facts_that_contradict_each_other_stop_everything(world):
    request, limits = world.asked("s-2"), world.limits()
    facts = world.began(world.asked("s-1"))
    for damaged in (
        [*facts, world.asked("s-1", partner_rows=1)],
        [*facts, Began(partner=world.partner, session=SessionId("s-1"), at=world.noon + HOUR)],
        facts[1:],
        [facts[0], *world.released(world.asked("s-1"))[2:]],
        [*facts, Thawed(partner=world.partner, session=SessionId("s-1"), at=world.noon, by="Ada")],
    ):
        with pytest.raises(DataError, match=r"^facts about partner, session s-1: .* restore them"):
            before(request, damaged, limits)
        with pytest.raises(DataError):
            remaining(world.allowance(), damaged, world.noon)
        foreign = [*damaged]
        assert isinstance(before(world.asked(partner=world.other), foreign, world.limits(partner=world.other)), Allow)


def test_what_remains_is_told(world):
    facts = [
        *world.failed(world.asked("s-1")),
        *world.began(world.asked("s-2", partner_rows=1_500)),
        *world.began(world.asked("s-3", table=TableId("staff"))),
        *world.began(world.asked("s-4", partner=world.other)),
    ]
    left = remaining(world.allowance(new_points_total=4_000), facts, world.noon)
    assert (left.points, left.points_next, left.new_points) == (2_500, 2_000, 500)
    assert (left.sessions_today, left.places, left.frozen, left.valid) == (8, 0, (), True)
    assert remaining(world.allowance(points_total=3_000), facts, world.noon).points == 0
    assert remaining(world.allowance(), facts, world.noon).new_points is None
    assert not remaining(world.allowance(), facts, world.noon + timedelta(days=300)).valid
