"""What is read for people: attempts in order and by every filter, the next due moment, ids that were meant, bars."""

import itertools
import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import START, HandClock
from tests.past import RUN, Past
from tests.scene import LINE, Scene
from worker import db, text
from worker.account import Card
from worker.chats import facts
from worker.cli.output import status
from worker.cli.output.explain import explanation_lines
from worker.db.tables import chats as chats_table
from worker.ledger import history
from worker.ledger.history import AttemptFilter
from worker.outcomes import FINISHED, Outcome
from worker.questions import suggest
from worker.questions.explain import Explanation, explain
from worker.rules.eligibility import Rules, Verdict, chats_with_lines, moment, verdict
from worker.rules.schedule import Schedule
from worker.wording.explain import fact_texts

OTHER = "+15550100002"
BERLIN = ZoneInfo("Europe/Berlin")
DAILY = Schedule("0 10 * * *", UTC)


@pytest.fixture
def past(engine: AsyncEngine) -> Past:
    return Past(engine, UTC)


@pytest.fixture
async def known(engine: AsyncEngine, clock: HandClock) -> Scene:
    """A database that has seen an active card; nobody is called, so no account is served."""
    scene = Scene(engine=engine, account=None, base_url="", clock=clock)  # type: ignore[arg-type] # nobody is called
    card = Card(phone_number=LINE, first_name="Acme", last_name="Support", image_url=None, is_active=True)
    async with db.write(engine) as connection:
        await facts.store_cards(connection, [card], clock.now())
    return scene


async def know(engine: AsyncEngine, chat_id: str, **changes: object) -> None:
    row = {"id": chat_id, "from_number": LINE, "service": "iMessage", "last_outbound_at": START - timedelta(hours=2)}
    async with db.write(engine) as connection:
        await connection.execute(chats_table.insert().values(row | changes))


# attempts


@pytest.fixture
async def three_days(engine: AsyncEngine, past: Past) -> AsyncEngine:
    """Chats a, b, c on three share days, an hour apart; 'b' on another line, 'c' no longer in the table."""
    await know(engine, "a")
    await know(engine, "b", from_number=OTHER)
    for back, (place, chat_id) in itertools.product(range(3), enumerate("abc")):
        refused = chat_id == "b"
        await past.attempt(
            chat_id,
            START - timedelta(days=back) + timedelta(hours=place),
            Outcome.REJECTED if refused else Outcome.SHARED,
            http_status=404 if refused else 202,
            error_code=2012 if refused else None,
            run_id=f"run-{back}",
        )
    await past.attempt("a", START + timedelta(hours=5), Outcome.UNKNOWN, sequence=1, run_id="run-again")
    return engine


FOUND: list[tuple[AttemptFilter, int | None, str]] = [
    (AttemptFilter(), None, "a10 c10 b10 a10 c09 b09 a09 c08 b08 a08"),
    (AttemptFilter(), 4, "a10 c10 b10 a10"),
    (AttemptFilter(), 5, "a10 c10 b10 a10 c09"),
    (AttemptFilter(chat_ids=["a", "c"]), None, "a10 c10 a10 c09 a09 c08 a08"),
    (AttemptFilter(chat_ids=["nobody"]), None, ""),
    (AttemptFilter(lines=[OTHER]), None, "b10 b09 b08"),
    (AttemptFilter(lines=[LINE, OTHER]), 2, "a10 b10"),
    (AttemptFilter(since=date(2026, 3, 9)), None, "a10 c10 b10 a10 c09 b09 a09"),
    (AttemptFilter(until=date(2026, 3, 8)), None, "c08 b08 a08"),
    (AttemptFilter(since=date(2026, 3, 9), until=date(2026, 3, 9)), None, "c09 b09 a09"),
    (AttemptFilter(since=date(2026, 3, 11)), None, ""),
    (AttemptFilter(outcomes=[Outcome.REJECTED, Outcome.UNKNOWN]), None, "a10 b10 b09 b08"),
    (AttemptFilter(codes=[2012]), 1, "b10"),
    (AttemptFilter(run_id="run-1"), None, "c09 b09 a09"),
    (AttemptFilter(run_id="run-1", chat_ids=["c"]), None, "c09"),
]


async def test_attempts_come_newest_first_and_only_those_that_fit(three_days: AsyncEngine) -> None:
    for wanted, at_most, found in FOUND:
        got = [attempt async for attempt in history.attempts(three_days, wanted, at_most=at_most)]
        assert " ".join(f"{attempt.chat_id}{attempt.share_day:%d}" for attempt in got) == found, wanted
        assert got == sorted(got, key=lambda attempt: attempt.claimed_at, reverse=True)


async def test_a_look_at_the_newest_rows_reads_the_newest_day_alone(three_days: AsyncEngine) -> None:
    """Otherwise it would sort the history of years."""
    read: list[str] = []

    @event.listens_for(three_days.sync_engine, "before_cursor_execute")
    def heard(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if "ORDER BY" in statement:
            read.append(str(parameters))

    assert len([attempt async for attempt in history.attempts(three_days, AttemptFilter(), at_most=2)]) == 2
    assert len(read) == 1
    assert "2026" in read[0]


# when a chat is due next


async def told(engine: AsyncEngine, rules: Rules, now: datetime, chat_id: str = "chat") -> Explanation:
    async with db.read(engine) as connection:
        found = await explain(connection, rules, DAILY, chat_id, now)
    assert found is not None
    return found


async def verdicts_at(engine: AsyncEngine, rules: Rules, times: list[datetime], chat_id: str) -> list[Verdict]:
    statement = select(verdict(rules)).select_from(chats_with_lines()).where(chats_table.c.id == chat_id)
    async with db.read(engine) as connection:
        return [Verdict((await connection.execute(statement, moment(rules, time))).scalar_one()) for time in times]


DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

RULES = [
    Rules(),
    Rules(timezone=BERLIN),
    Rules(min_hours=23),
    Rules(every_days=7, timezone=ZoneInfo("Asia/Kolkata")),
    Rules(every_days=3, min_hours=20, max_per_chat=9, active_days=300),
]


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [(-HOUR / 4, Outcome.SHARED)],
        [(-HOUR * 9, Outcome.UNKNOWN), (-HOUR / 2, Outcome.REJECTED)],
        [(-DAY * 2, Outcome.SHARED), (-DAY, Outcome.REJECTED), (-HOUR, Outcome.UNSENT)],
        [(-HOUR * 10, Outcome.SHARED)],
        [(HOUR * 2, Outcome.SHARED)],
    ],
    ids=["never", "just now", "lost and refused", "refused yesterday", "yesterday evening", "a clock ahead"],
)
async def test_the_next_due_moment_is_the_first_one_that_the_verdict_knows(
    known: Scene, engine: AsyncEngine, calls: list[tuple[timedelta, Outcome]]
) -> None:
    for number, rules in enumerate(RULES):
        chat_id = f"chat-{number}"
        await know(engine, chat_id)
        for sequence, (offset, outcome) in enumerate(calls):
            await Past(engine, rules.timezone).attempt(chat_id, START + offset, outcome, sequence=sequence)
        judgement = (await told(engine, rules, START, chat_id)).judgement
        assert judgement
        at = judgement.next_due.at
        assert at is not None
        just_before = at - timedelta(seconds=1)
        if at > START:
            hours = [START + HOUR * number for number in range(24 * 9) if START + HOUR * number < at]
            assert Verdict.DUE not in await verdicts_at(engine, rules, [*hours, just_before], chat_id), rules
        assert await verdicts_at(engine, rules, [at], chat_id) == [Verdict.DUE], rules
        assert judgement.next_due.scheduled == DAILY.after(just_before)


async def test_the_scheduled_time_may_be_the_moment_at_which_a_chat_becomes_due(
    known: Scene, engine: AsyncEngine, past: Past
) -> None:
    await know(engine, "chat")
    await past.attempt("chat", START)
    midnight = Schedule("@daily", UTC)
    async with db.read(engine) as connection:
        found = await explain(connection, Rules(), midnight, "chat", START)
    assert found
    assert found.judgement
    assert found.judgement.next_due.at == found.judgement.next_due.scheduled == datetime(2026, 3, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "rules", "unless"),
    [
        ({"paused_at": START}, Rules(), [Verdict.PAUSED]),
        (
            {"service": "SMS", "is_group": True},
            Rules(include_groups=False),
            [Verdict.NOT_IMESSAGE, Verdict.GROUP_EXCLUDED],
        ),
        ({"is_group": True}, Rules(include_groups=False), [Verdict.GROUP_EXCLUDED]),
        ({}, Rules(max_per_chat=1), [Verdict.CAP_REACHED]),
        ({"last_outbound_at": START - timedelta(hours=20)}, Rules(active_days=1), [Verdict.DORMANT]),
    ],
)
async def test_a_chat_that_waiting_does_not_help_says_what_must_change(
    known: Scene, engine: AsyncEngine, changes: dict[str, object], rules: Rules, unless: list[Verdict]
) -> None:
    await know(engine, "chat", **changes)
    await Past(engine, UTC).attempt("chat", START - HOUR)
    judgement = (await told(engine, rules, START)).judgement
    assert judgement
    assert judgement.next_due.at is None
    assert judgement.next_due.unless == unless


async def test_the_rules_are_told_as_the_verdict_applies_them(known: Scene, engine: AsyncEngine, past: Past) -> None:
    await know(engine, "chat", health_status="opted_out")
    await past.attempt("chat", START - HOUR / 2)
    explained = await told(engine, Rules(max_per_chat=3), START)
    judgement = explained.judgement
    assert judgement
    assert judgement.verdict is Verdict.OPTED_OUT
    assert [state.rule for state in judgement.rules] == [rule for rule in Verdict if rule is not Verdict.DUE]
    assert {state.rule.value for state in judgement.rules if state.holds} == {"opted_out", "already_today", "too_soon"}
    assert {state.rule.value for state in judgement.rules if state.holds is None} == {
        *("dormant", "group_excluded", "no_inbound", "card_exchanged")
    }
    facts = fact_texts(explained, Rules(max_per_chat=3))
    assert facts[Verdict.OPTED_OUT] == "health_status is opted_out; opted_out_at is empty"
    assert facts[Verdict.ALREADY_TODAY] == "shared 2026-03-10 09:00:00+00"
    assert facts[Verdict.CAP_REACHED] == "1 share; SHARE_MAX_PER_CHAT is 3"


async def test_an_explanation_keeps_within_a_narrow_terminal(known: Scene, engine: AsyncEngine, past: Past) -> None:
    await know(engine, "chat", paused_at=START, paused_reason="the recipient complained twice, by letter and by phone")
    await past.attempt("chat", START - HOUR, Outcome.REJECTED, error_message="no active contact card " * 5)
    explained = await told(engine, Rules(timezone=BERLIN), START)
    wide = [len(line) for line in explanation_lines(explained, Rules(timezone=BERLIN), width=None)]
    narrow = list(explanation_lines(explained, Rules(timezone=BERLIN), width=66))
    assert max(wide) > 100
    assert max(map(len, narrow)) <= 66
    start = next(number for number, line in enumerate(narrow) if line.startswith("> paused"))
    text_from_there = " ".join(" ".join(narrow[start : start + 5]).split())
    assert text_from_there.startswith("> paused yes 2026-03-10 10:30:00+01: the recipient complained twice, by letter")
    assert " by phone missing - missing_at is empty " in text_from_there


async def test_no_fact_contradicts_its_rule(known: Scene, engine: AsyncEngine) -> None:
    """An id that is too long makes the chat `missing`, though `missing_at` is empty."""
    chat_id = "x" * 501
    await know(engine, chat_id, service=None)
    explained = await told(engine, Rules(), START, chat_id)
    assert explained.judgement
    assert explained.judgement.verdict is Verdict.MISSING
    facts = fact_texts(explained, Rules())
    assert facts[Verdict.MISSING] == "the id has 501 characters; it must have 1 to 500"
    assert facts[Verdict.NOT_IMESSAGE] == "service is not known"


# ids that were perhaps meant

UUID = "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71"


SLIPS = {
    "beginning": "7d9f2c1e",
    "cut": "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b7",
    "capitals": UUID.upper(),
    "first letter": "1d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71",
    "first missing": "d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b71",
    "too many": "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b771",
    "swapped": "7d9f2c1e-3b52-4a0e-9c55-0f6a2d8e4b17",
    "no hex": "7d9f2c1e-3b52-4aoe-9c55-0f6a2d8e4b71",
}


@pytest.mark.parametrize("where", ["table", "ledger"])
async def test_a_slip_in_an_id_finds_the_chat_that_was_meant(engine: AsyncEngine, past: Past, where: str) -> None:
    others = [f"{number:02x}5f5c1e-0000-4a0e-9c55-0f6a2d8e0000" for number in range(256)]
    async with db.write(engine) as connection:
        await connection.execute(chats_table.insert(), [{"id": other, "from_number": LINE} for other in others])
    if where == "table":
        await know(engine, UUID)
    else:
        await past.attempt(UUID, START)
    async with db.read(engine) as connection:
        for slip, typed in SLIPS.items():
            assert await suggest.similar_chat_ids(connection, typed) == [UUID], slip


async def test_an_id_like_no_other_finds_none(engine: AsyncEngine) -> None:
    await know(engine, UUID)
    async with db.read(engine) as connection:
        for typed in ("", "x", "%", "ÿÿÿ", "a" * 5000, "nothing-like-it-anywhere"):
            assert await suggest.similar_chat_ids(connection, typed) == [], typed


async def test_the_beginning_of_a_run_is_enough_and_is_taken_as_it_is(engine: AsyncEngine, past: Past) -> None:
    for minute, run_id in enumerate((RUN, "20260310T090000Z-a1ffff", "20260311T090000Z-000000")):
        await past.run(run_id, START + timedelta(minutes=minute))
    async with db.read(engine) as connection:

        async def like(beginning: str) -> list[str]:
            return [run.id for run in await history.runs_beginning_with(connection, beginning, 9)]

        assert await like("20260310T090000Z-a1b") == [RUN]
        assert await like("20260310") == ["20260310T090000Z-a1ffff", RUN]
        assert await like(RUN) == [RUN]
        assert await like("2026031_") == []
        assert await like("%") == []
        assert await like("") == []


# bars and times


def days(*counts: tuple[int, int, int, int]) -> dict[date, dict[str, int]]:
    return {
        date(2026, 3, 1) + timedelta(days=number): dict(zip(FINISHED, each, strict=True))
        for number, each in enumerate(counts)
    }


def test_bars_are_in_proportion_and_show_whatever_is_not_nothing() -> None:
    assert status.bar_of([50, 0, 0, 0], most=100, length=10) == "█████"
    assert status.bar_of([999_999, 1, 1, 1], most=1_000_002, length=10) == "███████▒░·"
    assert status.bar_of([1, 0, 0, 0], most=1_000_000, length=10) == "█"
    assert status.bar_of([0, 0, 0, 0], most=5, length=10) == ""
    assert status.bar_of([0, 0, 0, 0], most=0, length=10) == ""


@pytest.mark.parametrize("width", [30, 50, 66, 80, 200])
def test_a_chart_fits_where_it_is_shown(width: int) -> None:
    lines = list(status.day_lines(days((1_000_000, 20_000, 7, 0), (0, 0, 0, 0), (3, 1, 0, 0)), width=width))
    assert [line[:10] for line in lines[1:]] == ["2026-03-01", "2026-03-02", "2026-03-03"]
    assert all(len(line) <= width for line in lines[1:])
    assert lines[1].count("█") > 3
    assert "█" not in lines[2]
    assert lines[3].endswith("█▒")
    if width >= 80:
        assert "1,000,000" in lines[1]


def test_a_chart_has_letters_where_blocks_cannot_be_written() -> None:
    lines = list(status.day_lines(days((30, 10, 1, 1)), width=None, marks=status.LETTERS))
    assert "".join(lines).isascii()
    assert re.search(r"  #+x+\?\.$", lines[1])


def test_times_carry_their_zone() -> None:
    summer = datetime(2026, 7, 1, 8, 0, 5, tzinfo=UTC)
    assert text.exact(summer, BERLIN) == "2026-07-01 10:00:05+02"
    assert text.minute(summer, ZoneInfo("Asia/Kolkata")) == "2026-07-01 13:30+05:30"
    assert text.both(summer, BERLIN) == "2026-07-01 10:00:05+02 = 2026-07-01 08:00:05+00"
    assert text.both(summer, UTC) == "2026-07-01 08:00:05+00"


@pytest.mark.parametrize(
    ("seconds", "long", "rough"),
    [(0.0382, "38 ms", "0 s"), (1.74, "1.7 s", "2 s"), (151, "0:02:31", "3 min"), (7200, "2:00:00", "2 h")],
)
def test_spans_are_told_in_a_fitting_unit(seconds: float, long: str, rough: str) -> None:
    assert text.span(timedelta(seconds=seconds)) == long
    assert text.roughly(timedelta(seconds=seconds)) == rough
