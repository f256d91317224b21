"""How fast a pass may go, and what makes it slow down, feel its way, or stop."""

import itertools
import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.linq.answers import (
    AccessRefused,
    CardInactive,
    ChatRefused,
    LineRefused,
    LinqError,
    NeverSent,
    PerhapsDone,
    RateLimited,
)
from worker.sharing.limits import Brake, LineLimits, Pace, Stop

A_HAIR: Final = 1e-6
"""What rounding may take from a second."""


def most_in_any_second(calls: list[float]) -> int:
    """The most calls that lie within one second."""
    return max((sum(start <= call < start + 1 - A_HAIR for call in calls) for start in calls), default=0)


def run(pace: Pace, waits: list[tuple[float, int]], start: float = 0.0) -> list[float]:
    """Let time pass by each wait in turn, and then start as many of the wanted calls as may start."""
    now = start
    calls: list[float] = []
    for seconds, wanted in waits:
        now += seconds
        free = pace.free(now)
        started = wanted if free is None else min(wanted, free)
        pace.take(started, now)
        calls += [now] * started
    return calls


# The pace

_waits: Final = st.lists(st.tuples(st.floats(0, 1.5), st.integers(0, 30)), max_size=30)


@given(per_second=st.integers(1, 50), waits=_waits, start=st.floats(0, 1e6))
def test_never_more_than_the_allowed_calls_start_in_any_one_second(
    per_second: int, waits: list[tuple[float, int]], start: float
) -> None:
    assert most_in_any_second(run(Pace(per_second), waits, start)) <= per_second


@given(per_second=st.floats(1, 50))
def test_a_pass_that_takes_all_it_may_stays_below_a_broken_number_too(per_second: float) -> None:
    pace = Pace(per_second)
    now = 0.0
    calls: list[float] = []
    while now < 3:
        free = pace.free(now)
        assert free is not None
        pace.take(free, now)
        calls += [now] * free
        now += pace.wait(now) + A_HAIR
    assert most_in_any_second(calls) <= per_second


@given(per_second=st.floats(0.01, 0.99), waits=_waits)
def test_below_one_per_second_calls_are_at_least_as_far_apart_as_that_says(
    per_second: float, waits: list[tuple[float, int]]
) -> None:
    calls = run(Pace(per_second), [(seconds * 10, wanted) for seconds, wanted in waits])
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert all(gap >= 1 / per_second - A_HAIR for gap in gaps)


@given(
    per_second=st.floats(0.1, 100),
    start=st.floats(0, 1e6),
    steps=st.lists(st.floats(0, 0.5), min_size=1, max_size=20),
)
def test_after_the_wait_that_it_names_a_call_may_start(per_second: float, start: float, steps: list[float]) -> None:
    pace = Pace(per_second)
    now = start
    for step in steps:
        now += step
        pace.take(pace.free(now) or 0, now)
        wait = pace.wait(now)
        assert wait > 0 or pace.free(now) != 0  # what was late is made up for at once
        assert pace.free(now + wait + A_HAIR) != 0


@given(per_second=st.floats(0.1, 100), start=st.floats(0, 1e6))
def test_it_names_no_wait_only_while_a_call_may_start(per_second: float, start: float) -> None:
    """Else a pass would spin: nothing to wait for, and nothing it may do."""
    pace = Pace(per_second)
    pace.take(pace.free(start) or 0, start)
    now = start + pace.wait(start)
    assert pace.wait(now) > 0 or pace.free(now) != 0


def test_twenty_a_second_is_one_every_fifty_milliseconds() -> None:
    starts: list[float] = []
    now = 100.0
    pace = Pace(20)
    while len(starts) < 41:
        pace.take(pace.free(now) or 0, now)
        starts.append(now)
        now += pace.wait(now)
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == pytest.approx([0.05] * 40)


@given(late=st.floats(0, 0.02))
def test_twenty_a_second_are_reached_though_each_starts_a_little_late(late: float) -> None:
    """A request starts only once its claim is committed; those behind it do not wait for that as well."""
    pace = Pace(20)
    now = 100.0
    calls: list[float] = []
    while len(calls) < 101:
        now += pace.wait(now) + A_HAIR + late
        pace.take(pace.free(now) or 0, now)
        calls.append(now)
    assert most_in_any_second(calls) <= 20
    assert calls[-1] - calls[0] <= 5 + 10 * late + 100 * A_HAIR  # twice a second, and not a hundred times


def test_what_a_long_pause_missed_is_not_made_up_for() -> None:
    pace = Pace(20)
    pace.take(1, 100.0)
    assert pace.free(102.0) == 1
    pace.take(1, 102.0)
    assert pace.free(102.0) == 0
    assert pace.wait(102.0) == pytest.approx(0.05)


def test_a_high_rate_comes_in_bursts_of_fifty_milliseconds() -> None:
    pace = Pace(1_000)
    assert pace.free(100.0) == 50
    pace.take(50, 100.0)
    assert pace.free(100.0) == 0
    assert pace.wait(100.02) == pytest.approx(0.03)
    assert pace.free(100.051) == 50


def test_the_time_is_counted_from_each_call_and_not_by_the_clock() -> None:
    pace = Pace(2)
    pace.take(1, 10.3)
    assert pace.free(10.79) == 0
    assert pace.wait(10.5) == pytest.approx(0.3)
    assert pace.free(10.8) == 1


def test_one_call_in_ten_seconds_is_one_call_in_ten_seconds() -> None:
    pace = Pace(0.1)
    assert pace.free(0.0) == 1
    pace.take(1, 0.0)
    assert pace.free(9.9) == 0
    assert pace.wait(4.0) == pytest.approx(6.0)
    assert pace.free(10.0) == 1


def test_zero_is_no_limit() -> None:
    pace = Pace(0)
    pace.take(10_000, 5.0)
    assert pace.free(5.0) is None
    assert pace.wait(5.0) == 0


# A line's limits


def test_a_line_that_linq_refused_has_one_request_at_a_time_until_a_share_goes_through() -> None:
    lines = LineLimits(0)
    assert not lines.any_in_force
    lines.refused(["+1"])
    assert (lines.any_in_force, lines.free("+1", 0), lines.free("+2", 0)) == (True, 1, math.inf)
    lines.started("+1", 0)
    assert lines.free("+1", 0) == 0
    assert not lines.ended("+1", shared=False)
    assert lines.free("+1", 0) == 1
    lines.started("+1", 0)
    assert lines.ended("+1", shared=True)
    assert lines.free("+1", 0) == math.inf
    assert not lines.ended("+1", shared=True)  # it is said once


def test_each_line_has_a_pace_of_its_own() -> None:
    lines = LineLimits(2)
    lines.started("+1", 10.0)
    assert (lines.free("+1", 10.4), lines.free("+2", 10.4)) == (0, 1)
    assert lines.wait({"+1"}, 10.4) == pytest.approx(0.1)
    lines.started("+2", 10.3)
    assert lines.wait({"+1", "+2"}, 10.4) == pytest.approx(0.1)
    assert lines.free("+1", 10.5) == 1
    lines.started("+2", 10.8)
    assert lines.wait({"+1", "+2"}, 11.0) == pytest.approx(0.3), "the other one has no time to wait for"
    assert lines.wait({"+1", "+2"}, 12.0) == 0


# The brake: failures in a row

DOWN: Final = PerhapsDone("Bad Gateway", status=502)
UNKNOWN_CHAT: Final = ChatRefused("No chat", status=404, code=2001)
FAILURES: Final = {
    "a 5xx": PerhapsDone("Internal error", status=500, code=3006),
    "no answer": PerhapsDone("no answer within 30 s"),
    "no connection": NeverSent("ConnectError"),
    "a 4xx that is not Linq's own": ChatRefused("Forbidden", status=404),
}
CONCERN_ONE: Final = {
    "an opted-out recipient": ChatRefused("Opted out", status=403, code=2024),
    "a blocked number": ChatRefused("Blocked", status=403, code=2026),
    "a card that is not active": CardInactive("No card", status=404, code=2012),
    "a line that is refused": LineRefused("Not now", status=403, code=2027),
}
CONCERN_ALL: Final = {
    "an unknown chat": UNKNOWN_CHAT,
    "an unavailable chat": ChatRefused("Unavailable", status=409, code=2013),
    "a wrong parameter": ChatRefused("Invalid", status=400, code=1005),
    "a code that Linq has not documented": ChatRefused("New", status=422, code=9999),
}
ANSWERS: Final = {"a share": None, **CONCERN_ONE, **CONCERN_ALL}


def see(brake: Brake, answer: LinqError | None, now: float, phase: int | None = None) -> None:
    """Let the brake see an answer, to a request that started in this phase if nothing else is said."""
    brake.saw(answer, phase=brake.phase if phase is None else phase, now=now)


def brake_after(*answers: LinqError | None, concurrency: int = 20, now: float = 100.0, resumed: bool = False) -> Brake:
    """A brake that saw these answers, all at one moment."""
    brake = Brake(concurrency, resumed=resumed)
    for each in answers:
        see(brake, each, now)
    return brake


def stop_of(brake: Brake) -> Stop | None:
    return brake.stop


def test_few_calls_are_in_flight_until_the_first_share_goes_through() -> None:
    brake = Brake(20)
    assert (brake.slots(0.0), brake.paused(0.0), brake.stop) == (5, 0, None)
    see(brake, None, 1.0)
    assert brake.slots(1.0) == 20


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_ten_failures_in_a_row_stop_the_pass_and_nine_do_not(failure: LinqError) -> None:
    brake = brake_after(None, *[failure] * 9)
    assert (brake.stop, brake.slots(100.0)) == (None, 20)
    see(brake, failure, 100.0)
    stop = stop_of(brake)
    assert stop is not None
    assert "10 requests in a row" in stop.reason
    assert str(failure) in stop.reason
    assert not stop.access_refused
    assert brake.slots(100.0) == 0


def test_failures_of_different_kinds_add_up() -> None:
    assert brake_after(*[*FAILURES.values()] * 2, DOWN).stop is None
    assert brake_after(*[*FAILURES.values()] * 2, DOWN, DOWN).stop is not None


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_any_answer_of_linqs_ends_a_row_of_failures(answer: LinqError | None) -> None:
    brake = brake_after(*[DOWN] * 9, answer, *[DOWN] * 9)
    assert brake.stop is None


def test_a_rate_limit_ends_a_row_of_failures() -> None:
    assert brake_after(*[DOWN] * 9, RateLimited("Slow", status=429, code=1007), *[DOWN] * 9).stop is None


# The brake: rejections in a row


@pytest.mark.parametrize("answer", [None, *CONCERN_ONE.values()], ids=["a share", *CONCERN_ONE])
def test_what_concerns_a_line_or_a_recipient_never_stops_a_pass(answer: LinqError | None) -> None:
    brake = brake_after(None, *[answer] * 1_000)
    assert (brake.stop, brake.slots(100.0)) == (None, 20)


@pytest.mark.parametrize("answer", CONCERN_ALL.values(), ids=CONCERN_ALL)
def test_ten_rejections_in_a_row_with_one_code_stop_the_pass_and_nine_do_not(answer: LinqError) -> None:
    brake = brake_after(None, *[answer] * 9)
    assert brake.stop is None
    see(brake, answer, 100.0)
    stop = stop_of(brake)
    assert stop is not None
    assert f"refused 10 chats in a row with {answer}" in stop.reason


def test_a_wrong_account_is_what_the_reason_says_to_look_at() -> None:
    stop = brake_after(*[UNKNOWN_CHAT] * 10).stop
    assert stop is not None
    assert "LINQ_API_KEY" in stop.reason
    assert "chats restore --missing" in stop.reason


def test_no_more_requests_are_in_flight_than_rejections_are_missing_to_a_stop() -> None:
    """What Linq refuses to all costs ten chats their day, and not those in flight on top of them."""
    brake = Brake(20)
    rejected = in_flight = 0
    while brake.stop is None:
        in_flight += max(0, brake.slots(100.0) - in_flight)
        see(brake, UNKNOWN_CHAT, 100.0)
        rejected, in_flight = rejected + 1, in_flight - 1
    assert rejected + in_flight == 10


def test_a_share_in_between_starts_the_count_anew() -> None:
    assert brake_after(*[UNKNOWN_CHAT] * 9, None, *[UNKNOWN_CHAT] * 9).stop is None


def test_another_code_in_between_starts_the_count_anew() -> None:
    invalid = ChatRefused("Invalid", status=400, code=1005)
    assert brake_after(*[UNKNOWN_CHAT] * 9, invalid, *[UNKNOWN_CHAT] * 9).stop is None


def test_a_lost_answer_in_between_does_not() -> None:
    assert brake_after(*[UNKNOWN_CHAT] * 9, DOWN, UNKNOWN_CHAT).stop is not None


def test_a_resumed_pass_sends_one_request_at_a_time_until_a_share_goes_through() -> None:
    brake = Brake(20, resumed=True)
    assert (brake.slots(100.0), brake.probing) == (1, True)
    see(brake, UNKNOWN_CHAT, 100.0)
    assert brake.slots(100.0) == 1
    see(brake, None, 101.0)
    assert (brake.slots(101.0), brake.probing) == (20, False)


def test_a_resumed_pass_stops_after_three_rejections_with_one_code() -> None:
    assert brake_after(*[UNKNOWN_CHAT] * 2, resumed=True).stop is None
    assert brake_after(*[UNKNOWN_CHAT] * 3, resumed=True).stop is not None
    assert brake_after(None, *[UNKNOWN_CHAT] * 9, resumed=True).stop is None


# The brake: the key


@pytest.mark.parametrize(("status", "code"), [(401, 2004), (403, 2005), (403, None)])
def test_a_refused_key_stops_the_pass_at_once_and_says_so(status: int, code: int | None) -> None:
    brake = brake_after(None, AccessRefused("Unauthorized", status=status, code=code))
    assert brake.stop is not None
    assert brake.stop.access_refused
    assert "Unauthorized" in brake.stop.reason
    assert brake.slots(1e9) == 0


def test_a_pass_that_must_stop_does_not_start_again() -> None:
    refused = AccessRefused("Unauthorized", status=401, code=2004)
    brake = brake_after(refused, None, *[DOWN] * 20, RateLimited("Slow", status=429, retry_after=10_000))
    assert brake.stop is not None
    assert brake.stop.access_refused
    assert brake.slots(1e9) == 0


# The brake: rate limits


def limit(retry_after: float | None) -> RateLimited:
    return RateLimited("Rate limit exceeded", status=429, code=1007, retry_after=retry_after)


def limited(retry_after: float | None = 10, now: float = 100.0) -> Brake:
    """A brake that has found out, by three probes, that the account is limited, and pauses."""
    return brake_after(None, limit(1), *[limit(retry_after)] * 3, now=now)


@pytest.mark.parametrize("retry_after", [None, 0, 1, 120, 300])
def test_after_a_rate_limit_one_call_at_a_time_goes_on_without_a_pause(retry_after: float | None) -> None:
    brake = brake_after(None, limit(retry_after))
    assert (brake.paused(100.0), brake.slots(100.0), brake.stop) == (0, 1, None)
    see(brake, None, 101.0)
    assert brake.slots(101.0) == 20


def test_rate_limits_with_an_answer_between_them_pause_nobody() -> None:
    brake = brake_after(None, *[limit(200), None] * 50)
    assert (brake.paused(100.0), brake.slots(100.0), brake.stop) == (0, 20, None)


def test_answers_to_requests_that_started_before_the_first_rate_limit_are_of_no_account() -> None:
    """Twenty in flight may all be of chats that somebody else has just shared with, or all be older than the limit."""
    brake = brake_after(None, limit(200))
    for _ in range(19):
        see(brake, limit(200), 100.1, phase=0)
    assert (brake.paused(100.1), brake.slots(100.1)) == (0, 1)
    see(brake, None, 100.2, phase=0)
    assert brake.slots(100.2) == 1


@pytest.mark.parametrize(("retry_after", "seconds"), [(30, 30), (200, 200), (0, 2), (None, 60)])
def test_only_if_three_probes_are_limited_too_all_wait_for_as_long_as_linq_says(
    retry_after: float | None, seconds: float
) -> None:
    assert brake_after(None, limit(1), *[limit(retry_after)] * 2).paused(100.0) == 0
    brake = limited(retry_after)
    assert brake.paused(100.0) == seconds
    assert brake.slots(100.0 + seconds - 0.1) == 0
    assert brake.slots(100.0 + seconds) == 1
    assert brake.stop is None


def test_of_several_chats_limits_the_one_that_ends_first_counts() -> None:
    assert brake_after(limit(1), limit(250), limit(20), limit(100)).paused(100.0) == 20


def test_a_rate_limit_longer_than_a_chats_can_be_pauses_at_once() -> None:
    brake = brake_after(limit(301))
    assert brake.paused(100.0) == 301
    assert brake.slots(400.9) == 0
    assert brake.slots(401.0) == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_lost_answer_does_not_end_the_probing(failure: LinqError) -> None:
    brake = limited(10)
    see(brake, failure, 111.0)
    assert brake.slots(111.0) == 1
    see(brake, None, 112.0)
    assert brake.slots(112.0) == 20


@pytest.mark.parametrize("answer", CONCERN_ONE.values(), ids=CONCERN_ONE)
def test_any_answer_of_linqs_after_a_pause_lets_all_calls_go_again(answer: LinqError | None) -> None:
    brake = limited(10)
    see(brake, answer, 110.0)
    assert brake.slots(110.0) == 20
    see(brake, limit(10), 110.0)
    assert (brake.paused(110.0), brake.slots(110.0)) == (0, 1)  # and the next rate limit is a first one again


def test_a_rate_limit_after_a_pause_makes_a_longer_one_at_once() -> None:
    brake = limited(10)
    see(brake, limit(10), 110.0)
    assert brake.paused(110.0) == 20
    see(brake, limit(90), 130.0)
    assert brake.paused(130.0) == 90


def test_answers_that_come_in_during_a_pause_do_not_end_it() -> None:
    brake = limited(10)
    see(brake, None, 101.0, phase=0)
    see(brake, limit(300), 101.0, phase=0)
    assert brake.paused(101.0) == 9


@pytest.mark.parametrize("retry_after", [0, 1, 60, 300])
def test_a_limit_that_lasts_costs_few_chats_their_day(retry_after: float) -> None:
    """Each 429 does; the pauses grow, so that a quarter of an hour is over after few of them."""
    brake, now, asked = Brake(20), 100.0, 0
    while stop_of(brake) is None and asked < 100:
        see(brake, limit(retry_after), now)
        asked += 1
        now += brake.paused(now)
    assert asked <= 13 if retry_after < 10 else asked <= 8


def test_waits_that_add_up_to_more_than_a_quarter_of_an_hour_stop_the_pass() -> None:
    brake = limited(300)
    see(brake, limit(300), 400.0)
    assert stop_of(brake) is None  # fifteen minutes in all, and not more
    see(brake, limit(10), 1000.0)
    stop = stop_of(brake)
    assert stop is not None
    assert "15 minutes" in stop.reason
    assert stop.retry_after == 10
    assert brake.slots(5_000.0) == 0


def test_a_rate_limit_of_more_than_a_quarter_of_an_hour_stops_the_pass_at_once() -> None:
    brake = brake_after(limit(901))
    assert brake.stop is not None
    assert brake.stop.retry_after == 901
    assert not brake.stop.access_refused


def test_an_answer_forgets_the_waits_before_it() -> None:
    brake = limited(300)
    see(brake, None, 400.0)
    for _ in range(4):
        see(brake, limit(300), 400.0)
    assert (brake.stop, brake.paused(400.0)) == (None, 300)


@given(
    answers=st.lists(
        st.tuples(
            st.floats(0, 100),
            st.integers(0, 2),
            st.one_of(
                st.sampled_from([*FAILURES.values(), *ANSWERS.values()]),
                st.none() | st.floats(0, 1e6).map(limit),
            ),
        ),
        max_size=60,
    ),
    resumed=st.booleans(),
)
def test_whatever_linq_answers_there_is_either_a_reason_to_stop_or_a_moment_to_go_on(
    answers: list[tuple[float, int, LinqError | None]], resumed: bool
) -> None:
    brake = Brake(7, resumed=resumed)
    now = 0.0
    for seconds, older, each in answers:
        now += seconds
        see(brake, each, now, phase=max(brake.phase - older, 0))
        assert 0 <= brake.slots(now) <= 7
        if brake.stop is None:
            assert brake.slots(now + brake.paused(now) + A_HAIR) >= 1
        else:
            assert brake.stop.reason
            assert brake.slots(now) == 0
