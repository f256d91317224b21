"""Who is due: every rule, their order, and every combination of them, on both databases."""

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import assembly, db
from worker.db.tables import chats, contact_cards, lines, share_attempts
from worker.rules.eligibility import Rules, Verdict, as_read, chats_with_lines, count_verdicts, due_ids, moment, verdict
from worker.settings import Settings
from worker.sharing.candidates import Due

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
TODAY = date(2026, 3, 10)
ACTIVE, INACTIVE, NONE = "+15550100001", "+15550100002", "+15550100003"
DAY = timedelta(days=1)


def row(chat_id: str, **changes: object) -> dict[str, object]:
    """A chat that is due, but for the changes."""
    usual = {
        "id": chat_id,
        "from_number": ACTIVE,
        "service": "iMessage",
        "is_group": False,
        "last_outbound_at": NOW - timedelta(hours=3),
        "health_status": "HEALTHY",
        "paused_at": None,
        "missing_at": None,
    }
    return usual | changes


def attempt(chat_id: str, day: date, outcome: str, claimed_at: datetime, sequence: int = 0) -> dict[str, object]:
    return {
        "chat_id": chat_id,
        "share_day": day,
        "sequence": sequence,
        "outcome": outcome,
        "run_id": "run",
        "claimed_at": claimed_at,
    }


async def add(
    engine: AsyncEngine, rows: list[dict[str, object]], attempts: list[dict[str, object]] | None = None
) -> None:
    async with db.write(engine) as connection:
        cards = [{"phone_number": ACTIVE, "is_active": True}, {"phone_number": INACTIVE, "is_active": False}]
        await connection.execute(insert(contact_cards), [card | {"checked_at": NOW} for card in cards])
        await connection.execute(insert(chats), rows)
        if attempts:
            await connection.execute(insert(share_attempts), attempts)


async def verdicts(connection: AsyncConnection, rules: Rules, now: datetime = NOW) -> dict[str, str]:
    rows = await connection.execute(
        select(chats.c.id, verdict(rules)).select_from(chats_with_lines()), moment(rules, now)
    )
    return {chat_id: name for chat_id, name in rows}  # noqa: C416 -- rows are no plain pairs


async def only(engine: AsyncEngine, rules: Rules, now: datetime = NOW) -> str:
    async with db.read(engine) as connection:
        (found,) = (await verdicts(connection, rules, now)).values()
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "due"),
        ({"paused_at": NOW}, "paused"),
        ({"missing_at": NOW}, "missing"),
        ({"service": "SMS"}, "not_imessage"),
        ({"service": "RCS"}, "not_imessage"),
        ({"service": None}, "not_imessage"),
        ({"service": ""}, "not_imessage"),
        ({"service": "IMESSAGE"}, "due"),
        ({"service": "imessage"}, "due"),
        ({"last_outbound_at": None}, "no_outbound"),
        ({"health_status": "OPTED_OUT"}, "opted_out"),
        ({"health_status": "opted_out"}, "opted_out"),
        ({"health_status": None}, "due"),
        ({"health_status": "A_WORD_OF_TOMORROW"}, "due"),
        ({"from_number": NONE}, "no_card"),
        ({"from_number": INACTIVE}, "card_inactive"),
        ({"is_group": True}, "due"),
    ],
)
async def test_each_fact_about_a_chat_has_its_verdict(
    engine: AsyncEngine, changes: dict[str, object], expected: str
) -> None:
    await add(engine, [row("chat", **changes)])
    assert await only(engine, Rules()) == expected


@dataclass(frozen=True)
class Fact:
    """A way to break one rule."""

    verdict: Verdict
    changes: tuple[tuple[str, object], ...] = ()
    attempts: tuple[tuple[date, str, datetime], ...] = ()


FACTS = [
    Fact(Verdict.PAUSED, (("paused_at", NOW),)),
    Fact(Verdict.MISSING, (("missing_at", NOW),)),
    Fact(Verdict.NOT_IMESSAGE, (("service", "SMS"),)),
    Fact(Verdict.NO_OUTBOUND, (("last_outbound_at", None),)),
    Fact(Verdict.OPTED_OUT, (("health_status", "OPTED_OUT"),)),
    Fact(Verdict.NO_CARD, (("from_number", NONE),)),
    Fact(Verdict.CARD_INACTIVE, (("from_number", INACTIVE),)),
    Fact(Verdict.ALREADY_TODAY, attempts=((TODAY, "shared", NOW - timedelta(hours=9)),)),
    Fact(Verdict.TOO_SOON, attempts=((TODAY - DAY, "rejected", NOW - timedelta(minutes=30)),)),
    Fact(
        Verdict.CAP_REACHED,
        attempts=((date(2026, 1, 1), "shared", NOW - 60 * DAY), (date(2026, 1, 2), "unknown", NOW - 59 * DAY)),
    ),
    Fact(Verdict.DORMANT, (("last_outbound_at", NOW - 40 * DAY),)),
    Fact(Verdict.GROUP_EXCLUDED, (("is_group", True),)),
]
STRICT = Rules(max_per_chat=2, active_days=30, include_groups=False)


async def test_of_all_combinations_the_first_rule_that_holds_decides(engine: AsyncEngine) -> None:
    rows, attempts, expected = [], [], {}
    order = list(Verdict)
    for number, broken in enumerate(itertools.product([False, True], repeat=len(FACTS))):
        chat_id = f"chat-{number:04}"
        facts = [fact for fact, is_broken in zip(FACTS, broken, strict=True) if is_broken]
        changes = {name: value for fact in reversed(facts) for name, value in fact.changes}
        rows.append(row(chat_id, **changes))
        attempts += [attempt(chat_id, *made) for fact in facts for made in fact.attempts]
        names = {fact.verdict for fact in facts}
        if Verdict.NO_CARD in names:  # a line cannot both have no card and an inactive one
            names.discard(Verdict.CARD_INACTIVE)
        if Verdict.NO_OUTBOUND in names:  # nor can there be no message, and an old one
            names.discard(Verdict.DORMANT)
        expected[chat_id] = min(names, key=order.index, default=Verdict.DUE)
    await add(engine, rows, attempts)
    async with db.read(engine) as connection:
        assert await verdicts(connection, STRICT) == expected
        assert await count_verdicts(connection, STRICT, NOW) == Counter(expected.values())
        due = list((await connection.execute(due_ids(STRICT), moment(STRICT, NOW))).scalars())
    assert due == sorted(chat_id for chat_id, name in expected.items() if name is Verdict.DUE)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("claimed", "already_today"),
        ("shared", "already_today"),
        ("rejected", "already_today"),
        ("unknown", "already_today"),
        ("unsent", "due"),
    ],
)
@pytest.mark.parametrize("sequence", [0, 3])
async def test_any_attempt_of_today_but_an_unsent_one_uses_up_the_day(
    engine: AsyncEngine, outcome: str, expected: str, sequence: int
) -> None:
    await add(engine, [row("chat")], [attempt("chat", TODAY, outcome, NOW - timedelta(hours=8), sequence)])
    assert await only(engine, Rules()) == expected


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("shared", "too_soon"), ("unknown", "too_soon"), ("claimed", "too_soon"), ("rejected", "due"), ("unsent", "due")],
)
async def test_a_refused_or_unsent_attempt_uses_up_no_interval(
    engine: AsyncEngine, outcome: str, expected: str
) -> None:
    await add(engine, [row("chat")], [attempt("chat", TODAY - 2 * DAY, outcome, NOW - 2 * DAY)])
    assert await only(engine, Rules(every_days=3)) == expected
    assert await only(engine, Rules(every_days=2)) == "due"


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("shared", "cap_reached"), ("unknown", "cap_reached"), ("rejected", "due"), ("unsent", "due")],
)
async def test_a_refused_or_unsent_attempt_does_not_count_towards_the_cap(
    engine: AsyncEngine, outcome: str, expected: str
) -> None:
    await add(engine, [row("chat")], [attempt("chat", TODAY - 50 * DAY, outcome, NOW - 50 * DAY)])
    assert await only(engine, Rules(max_per_chat=1)) == expected
    assert await only(engine, Rules(max_per_chat=2)) == "due"


@pytest.mark.parametrize(
    ("hours_ago", "outcome", "expected"),
    [(2, "shared", "due"), (0.9, "shared", "too_soon"), (0.9, "rejected", "too_soon"), (0.9, "unsent", "due")],
)
async def test_two_calls_across_midnight_are_hours_apart(
    engine: AsyncEngine, hours_ago: float, outcome: str, expected: str
) -> None:
    just_after_midnight = datetime(2026, 3, 10, 0, 30, tzinfo=UTC)
    made = just_after_midnight - timedelta(hours=hours_ago)
    await add(engine, [row("chat")], [attempt("chat", made.date(), outcome, made)])
    assert await only(engine, Rules(min_hours=1), just_after_midnight) == expected


@pytest.mark.parametrize("ahead", [timedelta(minutes=5), timedelta(hours=30)])
async def test_a_call_from_the_future_counts_as_one_just_made(engine: AsyncEngine, ahead: timedelta) -> None:
    made = NOW + ahead
    await add(engine, [row("chat")], [attempt("chat", (NOW + 2 * DAY).date(), "shared", made)])
    assert await only(engine, Rules()) == "too_soon"


async def test_the_last_hours_are_seen_across_a_change_of_the_time_zone(engine: AsyncEngine) -> None:
    """In Kiritimati it was the 10th already; in Niue, where the worker moved to, it is still the 9th."""
    made = datetime(2026, 3, 10, 10, 30, tzinfo=UTC)
    kiritimati, niue = Rules(timezone=ZoneInfo("Pacific/Kiritimati")), Rules(timezone=ZoneInfo("Pacific/Niue"))
    await add(engine, [row("chat")], [attempt("chat", kiritimati.share_day(made), "shared", made)])
    assert niue.share_day(made) < kiritimati.share_day(made)
    assert await only(engine, niue, made + timedelta(minutes=20)) == "too_soon"


@pytest.mark.parametrize(("zone", "day"), [("America/New_York", 9), ("UTC", 10), ("Asia/Tokyo", 10)])
def test_the_share_day_is_the_date_in_the_time_zone(zone: str, day: int) -> None:
    assert Rules(timezone=ZoneInfo(zone)).share_day(datetime(2026, 3, 10, 2, tzinfo=UTC)) == date(2026, 3, day)


async def test_cards_read_for_a_dry_run_stand_in_for_the_stored_ones(engine: AsyncEngine) -> None:
    await add(engine, [row("active"), row("inactive", from_number=INACTIVE), row("none", from_number=NONE)])
    async with db.read(engine) as connection:
        turned = as_read({ACTIVE: False, NONE: True}, None)
        counts = await count_verdicts(connection, Rules(), NOW, known=turned)
        due = (await connection.execute(due_ids(Rules(), turned), moment(Rules(), NOW))).scalars().all()
        nothing = await count_verdicts(connection, Rules(), NOW, known=as_read({}, None))
    assert counts == {Verdict.NO_CARD: 1, Verdict.CARD_INACTIVE: 1, Verdict.DUE: 1}
    assert due == ["none"]
    assert nothing == {Verdict.NO_CARD: 3}


async def test_the_walk_goes_on_after_the_last_id(engine: AsyncEngine) -> None:
    await add(engine, [row(chat_id) for chat_id in ("a", "B", "é", "Z", "c")])
    walked: list[str] = []
    after: str | None = ""
    async with db.read(engine) as connection:
        while after is not None:
            window = await Due(Rules()).read_ahead(connection, NOW, after=after, at_most=2)
            walked += window.line_of
            after = window.after
    assert walked == ["B", "Z", "a", "c", "é"]


@pytest.mark.parametrize("written", ["2026-02-01T10:00:00Z", "2026-02-01 10:00:00", "2026-02-01T12:00:00+02:00"])
async def test_dormant_is_judged_by_a_partners_own_iso_times_in_sqlite(engine: AsyncEngine, written: str) -> None:
    await add(engine, [row("chat")])
    async with db.write(engine) as connection:
        await connection.exec_driver_sql(f"UPDATE chats SET last_outbound_at = '{written}'")  # noqa: S608 -- a test's constant
    outbound = datetime(2026, 2, 1, 10, tzinfo=UTC)
    assert await only(engine, Rules(active_days=10), outbound + 10 * DAY - timedelta(seconds=1)) == "due"
    assert await only(engine, Rules(active_days=10), outbound + 10 * DAY + timedelta(seconds=1)) == "dormant"


async def test_whole_tables_and_counts_agree(engine: AsyncEngine) -> None:
    await add(engine, [row(f"chat-{number}", service="SMS" if number % 3 else "iMessage") for number in range(90)])
    async with db.read(engine) as connection:
        counts = await count_verdicts(connection, Rules(), NOW)
    assert counts == {Verdict.NOT_IMESSAGE: 60, Verdict.DUE: 30}


async def test_dormant_begins_after_the_last_active_moment(engine: AsyncEngine) -> None:
    await add(engine, [row("chat", last_outbound_at=NOW - 10 * DAY)])
    assert await only(engine, Rules(active_days=10)) == "due"
    assert await only(engine, Rules(active_days=10), NOW + timedelta(milliseconds=1)) == "dormant"


async def test_without_any_card_no_line_has_one(engine: AsyncEngine) -> None:
    """Also one that a partner left empty."""
    await add(engine, [row("chat", from_number=""), row("other")])
    async with db.read(engine) as connection:
        counts = await count_verdicts(connection, Rules(), NOW, known=as_read({}, None))
    assert counts == {Verdict.NO_CARD: 2}


async def test_what_a_run_attempted_today_is_left_out_of_its_count_and_nothing_else(engine: AsyncEngine) -> None:
    attempts = [
        attempt("mine", TODAY, "shared", NOW),
        attempt("mine-yesterday", TODAY - DAY, "shared", NOW - 20 * timedelta(hours=1)),
        attempt("others", TODAY, "shared", NOW) | {"run_id": "another run"},
    ]
    await add(engine, [row(chat_id) for chat_id in ("mine", "mine-yesterday", "others", "never")], attempts)
    async with db.read(engine) as connection:
        counts = await count_verdicts(connection, Rules(), NOW, without_run="run")
    assert counts == {Verdict.ALREADY_TODAY: 1, Verdict.DUE: 2}


def test_the_rules_without_settings_are_those_of_the_settings() -> None:
    assert replace(assembly.rules(Settings()), timezone=UTC) == Rules()


@pytest.mark.parametrize(("hours", "expected"), [(2, "due"), (1.9999, "too_soon")])
async def test_the_hours_between_two_calls_are_over_to_the_moment(
    engine: AsyncEngine, hours: float, expected: str
) -> None:
    """Yesterday's refused call, an hour before midnight; an hour after it."""
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    called = midnight - timedelta(hours=1)
    await add(engine, [row("chat", last_outbound_at=called)], [attempt("chat", TODAY - DAY, "rejected", called)])
    assert await only(engine, Rules(min_hours=2), called + timedelta(hours=hours)) == expected


@pytest.mark.parametrize(("days_ago", "expected"), [(9, "too_soon"), (10, "due")])
async def test_the_days_between_two_shares_are_counted_however_many_they_are(
    engine: AsyncEngine, days_ago: int, expected: str
) -> None:
    await add(engine, [row("chat")], [attempt("chat", TODAY - days_ago * DAY, "shared", NOW - days_ago * DAY)])
    assert await only(engine, Rules(every_days=10)) == expected


@pytest.mark.parametrize(("hours_ago", "day"), [(0.5, 9), (22.99, 8)])
async def test_the_last_hours_are_seen_however_far_east_the_worker_moves(
    engine: AsyncEngine, hours_ago: float, day: int
) -> None:
    """A call that was made in the last of all time zones, seen from the first one: two dates later, hours ago."""
    now = datetime(2026, 3, 10, 10, 30, tzinfo=UTC)
    last, first = ZoneInfo("Etc/GMT+12"), ZoneInfo("Pacific/Kiritimati")
    made = now - timedelta(hours=hours_ago)
    assert (made.astimezone(last).day, now.astimezone(first).day) == (day, 11)
    await add(
        engine, [row("chat", last_outbound_at=made)], [attempt("chat", made.astimezone(last).date(), "rejected", made)]
    )
    assert await only(engine, Rules(timezone=first, min_hours=23), now) == "too_soon"


@pytest.mark.parametrize(
    ("status", "days", "verdict_"),
    [("FLAGGED", 6, "line_resting"), ("flagged", 8, "due"), ("ACTIVE", 1, "due"), ("FLAGGED", None, "line_resting")],
)
async def test_a_line_that_a_webhook_told_as_flagged_rests_for_a_week_at_most(
    engine: AsyncEngine, status: str, days: int | None, verdict_: str
) -> None:
    """The word that it is over may be lost."""
    await add(engine, [row("chat")])
    changed_at = None if days is None else NOW - timedelta(days=days)
    line = {"phone_number": ACTIVE, "status": status, "status_changed_at": changed_at, "checked_at": NOW}
    async with db.write(engine) as connection:
        await connection.execute(insert(lines), [line])
        assert await verdicts(connection, Rules()) == {"chat": verdict_}
