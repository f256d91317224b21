"""How fast a pass may go, and what makes it slow down, feel its way, or stop."""

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.linq.answers import AccessRefused, CardInactive, ChatRefused, LinqError, NeverSent, PerhapsDone, RateLimited
from worker.sharing.limits import Brake, Pace, Stop

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
        assert wait > 0
        assert pace.free(now + wait + A_HAIR) != 0


@given(per_second=st.floats(0.1, 100), start=st.floats(0, 1e6))
def test_it_names_no_wait_only_while_a_call_may_start(per_second: float, start: float) -> None:
    """Else a pass would spin: nothing to wait for, and nothing it may do."""
    pace = Pace(per_second)
    pace.take(pace.free(start) or 0, start)
    now = start + pace.wait(start)
    assert pace.wait(now) > 0 or pace.free(now) != 0


def test_a_full_seconds_calls_may_start_at_once() -> None:
    pace = Pace(20)
    assert pace.free(100.0) == 20
    pace.take(20, 100.0)
    assert pace.free(100.0) == 0
    assert pace.wait(100.25) == pytest.approx(0.75)
    assert pace.free(101.0) == 20


def test_a_second_is_counted_from_each_call_and_not_by_the_clock() -> None:
    pace = Pace(2)
    pace.take(1, 10.0)
    pace.take(1, 10.9)
    assert pace.free(11.0) == 1
    assert pace.free(11.89) == 1
    pace.take(1, 11.0)
    assert pace.free(11.5) == 0
    assert pace.wait(11.5) == pytest.approx(0.4)


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


# The brake: failures in a row

DOWN: Final = PerhapsDone("Bad Gateway", status=502)
FAILURES: Final = {
    "a 5xx": PerhapsDone("Internal error", status=500, code=3006),
    "no answer": PerhapsDone("no answer within 30 s"),
    "no connection": NeverSent("ConnectError"),
    "a 4xx that is not Linq's own": ChatRefused("Forbidden", status=404),
}
ANSWERS: Final = {
    "a share": None,
    "an opted-out recipient": ChatRefused("Opted out", status=403, code=2024),
    "an unknown chat": ChatRefused("No chat", status=404, code=2001),
    "a card that is not active": CardInactive("No card", status=404, code=2012),
}


def brake_after(*answers: LinqError | None, concurrency: int = 20, now: float = 100.0) -> Brake:
    """A brake that saw these answers, all at one moment."""
    brake = Brake(concurrency)
    for each in answers:
        brake.saw(each, now)
    return brake


def stop_of(brake: Brake) -> Stop | None:
    return brake.stop


def test_at_first_all_calls_may_be_in_flight() -> None:
    brake = Brake(20)
    assert (brake.slots(0.0), brake.paused(0.0), brake.stop) == (20, 0, None)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_ten_failures_in_a_row_stop_the_pass_and_nine_do_not(failure: LinqError) -> None:
    brake = brake_after(*[failure] * 9)
    assert (brake.stop, brake.slots(100.0)) == (None, 20)
    brake.saw(failure, 100.0)
    stop = stop_of(brake)
    assert stop is not None
    assert "10 calls in a row" in stop.reason
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


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_refusals_of_linqs_own_never_stop_a_pass(answer: LinqError | None) -> None:
    brake = brake_after(*[answer] * 1_000)
    assert (brake.stop, brake.slots(100.0)) == (None, 20)


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


@pytest.mark.parametrize("retry_after", [None, 0, 1, 120, 300])
def test_a_single_rate_limit_is_about_its_chat_and_pauses_nobody(retry_after: float | None) -> None:
    brake = brake_after(limit(retry_after))
    assert (brake.paused(100.0), brake.slots(100.0), brake.stop) == (0, 20, None)


def test_rate_limits_with_an_answer_between_them_pause_nobody() -> None:
    brake = brake_after(*[limit(200), None] * 50)
    assert (brake.paused(100.0), brake.slots(100.0), brake.stop) == (0, 20, None)


@pytest.mark.parametrize(("retry_after", "seconds"), [(30, 30), (200, 200), (None, 60)])
def test_a_second_rate_limit_in_a_row_pauses_for_as_long_as_it_says(retry_after: float | None, seconds: float) -> None:
    brake = brake_after(limit(1), limit(retry_after))
    assert brake.paused(100.0) == seconds
    assert brake.slots(100.0 + seconds - 0.1) == 0
    assert brake.slots(100.0 + seconds) == 1
    assert brake.stop is None


def test_a_rate_limit_longer_than_a_chats_can_be_pauses_at_once() -> None:
    brake = brake_after(limit(301))
    assert brake.paused(100.0) == 301
    assert brake.slots(400.9) == 0


def test_the_longest_of_several_rate_limits_counts() -> None:
    brake = brake_after(limit(1), limit(100), limit(20), limit(50))
    assert brake.paused(100.0) == 100


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_after_a_pause_one_call_at_a_time_feels_the_way_until_an_answer_comes(failure: LinqError) -> None:
    brake = brake_after(limit(1), limit(10))
    assert brake.slots(110.0) == 1
    brake.saw(failure, 111.0)  # no answer of Linq's
    assert brake.slots(111.0) == 1
    brake.saw(None, 112.0)
    assert brake.slots(112.0) == 20


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_any_answer_of_linqs_after_a_pause_lets_all_calls_go_again(answer: LinqError | None) -> None:
    brake = brake_after(limit(1), limit(10))
    brake.saw(answer, 110.0)
    assert brake.slots(110.0) == 20
    brake.saw(limit(10), 110.0)
    assert brake.slots(110.0) == 20  # and the next rate limit is a first one again


def test_a_rate_limit_while_feeling_the_way_pauses_again() -> None:
    brake = brake_after(limit(1), limit(10))
    brake.saw(limit(20), 110.0)
    assert brake.paused(110.0) == 20
    assert brake.slots(130.0) == 1


def test_answers_that_come_in_during_a_pause_do_not_end_it() -> None:
    brake = brake_after(limit(1), limit(10), None)
    assert brake.slots(105.0) == 0
    assert brake.slots(110.0) == 20


def test_rate_limits_that_name_no_time_to_speak_of_make_longer_and_longer_pauses() -> None:
    """With each one a chat loses its day; at a second each, thousands would."""
    brake = brake_after(limit(0))
    now = 100.0
    pauses: list[float] = []
    while stop_of(brake) is None and len(pauses) < 100:
        brake.saw(limit(0), now)
        pauses.append(brake.paused(now))
        now += pauses[-1]
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert len(pauses) < 12


def test_waits_that_add_up_to_more_than_a_quarter_of_an_hour_stop_the_pass() -> None:
    brake = brake_after(limit(1), limit(600))
    brake.saw(limit(300), 700.0)
    assert stop_of(brake) is None  # fifteen minutes in all, and not more
    brake.saw(limit(10), 1000.0)
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


def test_waits_that_overlap_count_once() -> None:
    brake = brake_after(limit(1), *[limit(600)] * 20)
    assert brake.stop is None


def test_an_answer_forgets_the_waits_before_it() -> None:
    brake = brake_after(limit(1), limit(600))
    brake.saw(None, 700.0)
    brake.saw(limit(1), 700.0)
    brake.saw(limit(600), 700.0)
    assert brake.stop is None


@given(
    answers=st.lists(
        st.tuples(
            st.floats(0, 100),
            st.one_of(
                st.sampled_from([*FAILURES.values(), *ANSWERS.values()]),
                st.none() | st.floats(0, 1e6).map(limit),
            ),
        ),
        max_size=60,
    )
)
def test_whatever_linq_answers_there_is_either_a_reason_to_stop_or_a_moment_to_go_on(
    answers: list[tuple[float, LinqError | None]],
) -> None:
    brake = Brake(7)
    now = 0.0
    for seconds, each in answers:
        now += seconds
        brake.saw(each, now)
        assert brake.slots(now) in {0, 1, 7}
        if brake.stop is None:
            assert brake.slots(now + brake.paused(now) + A_HAIR) >= 1
        else:
            assert brake.stop.reason
            assert brake.slots(now) == 0
