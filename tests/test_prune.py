"""`prune`: old history goes, and nobody's verdict changes by it, today or later."""

import asyncio
import json
import signal
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Text, cast, delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import answered, finish, one_line, seen, share_worker, start
from tests.conftest import START, HandClock
from tests.databases import sqlite_only
from tests.scene import Scene
from tests.test_eligibility import add, attempt, row, verdicts
from worker import db
from worker.db.tables import UtcTime, chats, contact_cards, runs, share_attempts
from worker.ledger import prune
from worker.ledger.prune import Removed, latest_allowed, make_plan, remove
from worker.ledger.runs import has_run_before, has_run_on, is_done, last_completed, running_workers
from worker.rules.eligibility import Rules
from worker.service.pruning import Pruning

DAY = timedelta(days=1)
ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago")]
OUTCOMES = ("shared", "shared", "rejected", "unknown", "unsent", "claimed")


def run_row(run_id: str, day: date, started_at: datetime, **changes: object) -> dict[str, object]:
    usual = {
        "id": run_id,
        "trigger": "schedule",
        "share_day": day,
        "worker": "host:1",
        "started_at": started_at,
        "finished_at": started_at + timedelta(minutes=5),
        "status": "completed",
        "tally": {"shared": 1, "rejected": 0, "unknown": 0, "unsent": 0, "left": 0, "skipped": {}},
    }
    return usual | changes


async def history(engine: AsyncEngine) -> list[tuple[str, date, str]]:
    """What the ledger still holds."""
    async with db.read(engine) as connection:
        columns = (share_attempts.c.chat_id, share_attempts.c.share_day, share_attempts.c.outcome)
        found = await connection.execute(select(*columns).order_by(*columns))
        return [(chat_id, day, outcome) for chat_id, day, outcome in found]


async def run_ids(engine: AsyncEngine) -> list[str]:
    async with db.read(engine) as connection:
        return list((await connection.execute(select(runs.c.id).order_by(runs.c.id))).scalars())


async def empty(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        for table in (chats, contact_cards, share_attempts, runs):
            await connection.execute(delete(table))


# the promise of prune


def some_rules(random: Random) -> Rules:
    return Rules(
        timezone=random.choice(ZONES),
        every_days=random.choice((1, 1, 2, 3, 7, 21)),
        min_hours=random.choice((0.1, 1, 12, 23)),
        max_per_chat=random.choice((0, 0, 1, 3)),
    )


def some_history(random: Random, rules: Rules, now: datetime, chat_id: str) -> list[dict[str, object]]:
    """A chat's attempts over two months, most of them lately; some were made in another time zone's days."""
    found: dict[tuple[date, int], dict[str, object]] = {}
    for _ in range(random.randrange(1, 9)):
        claimed_at = now - timedelta(days=random.random() ** 3 * 60) + timedelta(hours=random.random() < 0.05)
        zone = random.choice([rules.timezone, rules.timezone, *ZONES])
        day, sequence = claimed_at.astimezone(zone).date(), random.choice((0, 0, 1))
        found[day, sequence] = attempt(chat_id, day, random.choice(OUTCOMES), claimed_at, sequence)
    return list(found.values())


async def future(engine: AsyncEngine, rules: Rules, now: datetime) -> list[dict[str, str]]:
    """Every chat's verdict today and on the days to come, as long as anything that was could matter."""
    moments = [now + timedelta(hours=hours) for hours in (0, 1, 9, 18)]
    moments += [now + days * DAY for days in range(1, rules.every_days + 3)]
    async with db.read(engine) as connection:
        return [await verdicts(connection, rules, moment) for moment in moments]


@pytest.mark.parametrize("seed", range(3))
async def test_no_verdict_changes_by_a_prune_today_or_later(engine: AsyncEngine, seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- repeatable on purpose
    gone = 0
    for _ in range(4):
        rules = some_rules(random)
        now = START + timedelta(minutes=random.randrange(60 * 24 * 40))
        names = [f"chat-{number:02}" for number in range(40)]
        attempts = [one for name in names for one in some_history(random, rules, now, name)]
        await add(engine, [row(name) for name in names], attempts)
        before = latest_allowed(rules, now) - random.choice((0, 0, 1, 9)) * DAY
        foretold = await future(engine, rules, now)
        async with db.read(engine) as connection:
            plan = await make_plan(connection, rules, before)
        removed = await remove(engine, rules, before, clock=HandClock(now), stop=asyncio.Event())
        assert await future(engine, rules, now) == foretold, (rules, now, before)
        left = await history(engine)
        assert removed == Removed(attempts=len(attempts) - len(left), runs=0, complete=True)
        assert plan.attempts == removed.attempts
        old = [outcome for _, day, outcome in left if day < before]
        assert sum(one.count for one in plan.kept) == len(old)
        assert set(old) <= {"claimed"} | ({"shared", "unknown"} if rules.max_per_chat else set())
        claims = [one for one in attempts if one["outcome"] == "claimed" and str(one["share_day"]) < str(before)]
        assert old.count("claimed") == len(claims), "a pass is to settle them"
        gone += removed.attempts
        await empty(engine)
    assert gone > 50


async def test_what_counts_toward_the_cap_is_kept_and_said(engine: AsyncEngine, clock: HandClock) -> None:
    long_ago = [clock.now() - days * DAY for days in range(300, 320)]
    attempts = [
        attempt("chat", at.date(), ("shared", "unsent", "unknown", "rejected")[at.day % 4], at) for at in long_ago
    ]
    await add(engine, [row("chat")], attempts)
    rules = Rules(max_per_chat=8)
    before = latest_allowed(rules, clock.now())
    async with db.read(engine) as connection:
        assert await verdicts(connection, rules, clock.now()) == {"chat": "cap_reached"}
        plan = await make_plan(connection, rules, before)
    (kept,) = plan.kept
    assert (kept.what, kept.count) == ("attempts", 10)
    assert kept.why == "they count toward SHARE_MAX_PER_CHAT, which is 8"
    await remove(engine, rules, before, clock=clock, stop=asyncio.Event())
    assert {outcome for _, _, outcome in await history(engine)} == {"shared", "unknown"}
    async with db.read(engine) as connection:
        assert await verdicts(connection, rules, clock.now()) == {"chat": "cap_reached"}


@pytest.mark.parametrize("seed", range(2))
async def test_the_service_finds_in_the_runs_what_it_found_before(engine: AsyncEngine, seed: int) -> None:
    random = Random(seed)  # noqa: S311 -- repeatable on purpose
    rules = Rules()
    for _ in range(8):
        now = START
        rows = []
        for number in range(random.randrange(1, 12)):
            at = now - timedelta(days=random.random() ** 2 * 50)
            status = random.choice(("completed", "completed", "stopped", "failed", "running"))
            finished = None if status == "running" else at + timedelta(minutes=5)
            trigger = random.choice(("schedule", "command", "rerun"))
            rows.append(
                run_row(f"run-{number:02}", at.date(), at, status=status, finished_at=finished, trigger=trigger)
            )
        async with db.write(engine) as connection:
            await connection.execute(insert(runs), rows)

        async def asked(now: datetime = now) -> list[object]:
            async with db.read(engine) as connection:
                return [
                    await last_completed(connection),
                    *[await is_done(connection, now.date() - back * DAY) for back in (0, 1)],
                    *[await has_run_on(connection, now.date() - back * DAY) for back in (0, 1)],
                    *[await has_run_before(connection, now - hours * timedelta(hours=1)) for hours in (0, 20, 33)],
                    sorted(await running_workers(connection)),
                ]

        known = await asked()
        before = latest_allowed(rules, now)
        async with db.read(engine) as connection:
            plan = await make_plan(connection, rules, before)
        removed = await remove(engine, rules, before, clock=HandClock(now), stop=asyncio.Event())
        assert await asked() == known
        assert removed.runs == plan.runs == len(rows) - len(await run_ids(engine))
        old = [one for one in rows if str(one["share_day"]) < str(before) and one["status"] != "running"]
        assert len(old) - 2 <= removed.runs <= len(old), "no more than two are kept for the service"
        await empty(engine)


# how it goes about it


async def many(engine: AsyncEngine, now: datetime, *, attempts: int) -> date:
    """So many old attempts on four days; the first day that is allowed."""
    days = [(now - back * DAY).date() for back in range(10, 14)]
    numbers = select(literal(0).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < attempts // 4 - 1))
    names = ["chat_id", "share_day", "sequence", "outcome", "run_id", "claimed_at"]
    async with db.write(engine) as connection:
        for day in days:
            chat_id = literal("chat-") + cast(numbers.c.n, Text)
            values = (literal(day), literal(0), literal("shared"), literal("run"), literal(now - 10 * DAY, UtcTime()))
            await connection.execute(insert(share_attempts).from_select(names, select(chat_id, *values)))
        await connection.execute(insert(runs), [run_row(f"run-{n}", days[0], now - (20 - n) * DAY) for n in range(5)])
    return latest_allowed(Rules(), now)


async def test_it_works_in_batches_with_pauses_and_stops_between_them(
    engine: AsyncEngine, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "BATCH", 10)
    before = await many(engine, clock.now(), attempts=64)
    stop = asyncio.Event()
    seen: list[Removed] = []

    def stop_after(batches: int) -> Callable[[Removed], None]:
        def watch(removed: Removed) -> None:
            seen.append(removed)
            if len(seen) == batches:
                stop.set()

        return watch

    first = await remove(engine, Rules(), before, clock=clock, stop=stop, watch=stop_after(3))
    assert first == Removed(attempts=26, runs=0, complete=False), "ten, six of the same day, ten of the next"
    assert len(await history(engine)) == 64 - 26
    stop.clear()
    clock.slept.clear()
    second = await remove(engine, Rules(), before, clock=clock, stop=stop)
    assert second == Removed(attempts=38, runs=4, complete=True)
    assert await run_ids(engine) == ["run-4"], "the last one stays"
    assert len(clock.slept) >= 5
    assert min(clock.slept) >= 0.02


async def test_two_at_once_share_the_work(
    engine: AsyncEngine, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "BATCH", 10)
    before = await many(engine, clock.now(), attempts=400)
    stop = asyncio.Event()
    both = await asyncio.gather(*(remove(engine, Rules(), before, clock=clock, stop=stop) for _ in range(2)))
    assert sum(one.attempts for one in both) == 400
    assert sum(one.runs for one in both) == 4
    assert await history(engine) == []


# the command


@pytest.fixture
async def old(live: Scene) -> Scene:
    """Attempts and runs of long ago, and a chat that was shared with yesterday."""
    now = datetime.now(UTC)
    ago = [now - days * DAY for days in (1, 100, 200, 300)]
    await live.add_chat("chat")
    async with db.write(live.engine) as connection:
        await connection.execute(insert(share_attempts), [attempt("chat", at.date(), "shared", at) for at in ago])
        await connection.execute(insert(runs), [run_row(f"run-{at.date()}", at.date(), at) for at in ago])
    return live


@sqlite_only
async def test_it_says_what_it_would_remove_and_asks(old: Scene, settings: dict[str, str]) -> None:
    now = datetime.now(UTC)
    day = (now - 150 * DAY).date().isoformat()
    dry = await share_worker("prune", "--before", day, "--dry-run", **settings)
    assert (dry.code, dry.err) == (0, "")
    lines = dry.out.splitlines()
    assert lines[0].startswith(
        f"Before share day {day}, by SHARE_EVERY_DAYS=1, SHARE_MIN_HOURS=1, SHARE_MAX_PER_CHAT=0"
    )
    assert [line.split()[:2] for line in lines[1:]] == [["attempts", "2"], ["runs", "1"], ["runs", "kept"]]
    assert lines[1].endswith(f"the oldest of {(now - 300 * DAY).date()}")
    declined = await answered("", "prune", "--before", day, **settings)
    assert "Remove 2 attempts and 1 run? [y/N]" in declined.err
    assert declined.code == 1
    assert "nothing was removed" in declined.err
    assert len(await history(old.engine)) == 4
    agreed = await answered("yes", "prune", "--before", day, **settings)
    assert agreed.code == 0
    assert agreed.out.endswith("Removed 2 attempts and 1 run.\n")
    assert [str(one[1]) >= day for one in await history(old.engine)] == [True, True]
    assert len(await run_ids(old.engine)) == 3
    again = await share_worker("prune", "--before", day, **settings)
    assert again.code == 0
    assert again.out.endswith("Nothing to remove.\n")


@sqlite_only
async def test_on_a_terminal_a_bar_fills_while_rows_go(old: Scene, settings: dict[str, str]) -> None:
    day = (datetime.now(UTC) - 150 * DAY).date().isoformat()
    ended = await seen("prune", "--before", day, "--yes", **settings)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "Removed 2 attempts and 1 run.")
    assert "removing" in ended.err
    assert "3/3" in ended.err


@sqlite_only
async def test_json_says_what_went_and_what_stayed(old: Scene, settings: dict[str, str]) -> None:
    day = (datetime.now(UTC) - 50 * DAY).date().isoformat()
    capped = settings | {"SHARE_MAX_PER_CHAT": "5"}
    planned = json.loads((await share_worker("prune", "--before", day, "--dry-run", "--json", **capped)).out)
    assert (planned["attempts"], planned["runs"]) == (0, 2)
    assert [(kept["what"], kept["count"]) for kept in planned["kept"]] == [("attempts", 3), ("runs", 1)]
    removed = json.loads((await share_worker("prune", "--before", day, "--yes", "--json", **settings)).out)
    assert (removed["before"], removed["attempts"], removed["runs"], removed["complete"]) == (day, 3, 2, True)


@sqlite_only
async def test_a_date_that_the_rules_still_need_is_refused_with_the_latest_one(
    old: Scene, settings: dict[str, str]
) -> None:
    today = datetime.now(UTC).date()
    far = settings | {"SHARE_EVERY_DAYS": "30"}
    for word in (today + 400 * DAY, today - 28 * DAY):
        line = one_line(await share_worker("prune", "--before", word.isoformat(), "--yes", **far), 2)
        found = date.fromisoformat(line.partition("but may be ")[2][:10])
        assert today - 31 * DAY <= found <= today - 29 * DAY, "the day may have changed meanwhile"
        assert "at the latest" in line
    assert len(await history(old.engine)) == 4


async def test_what_is_no_date_is_refused() -> None:
    line = one_line(await share_worker("prune", "--before", "soon"), 2)
    assert line == "share-worker: --before is 'soon', but may be a date such as 2026-01-31"


async def count_old(engine: AsyncEngine) -> int:
    async with db.read(engine) as connection:
        old = select(func.count()).where(share_attempts.c.chat_id.like("chat-%"))
        return int((await connection.execute(old)).scalar_one())


@sqlite_only
async def test_a_running_pass_gets_its_turn_beside_it(live: Scene, settings: dict[str, str]) -> None:
    """SQLite has one writer at a time."""
    await live.add_chats(f"due-{number:02}" for number in range(20))
    before = (await many(live.engine, datetime.now(UTC), attempts=12_000)).isoformat()
    process = await start("prune", "--before", before, "--yes", "--json", **settings)
    while await count_old(live.engine) == 12_000:  # noqa: ASYNC110 -- another process gives no event to wait for
        await asyncio.sleep(0.01)
    ran = await share_worker("run", "--json", **settings)
    ended = await finish(process)
    tally = json.loads(ran.out)["tally"]
    assert (ran.code, tally["shared"], tally["left"]) == (0, 20, 0)
    assert (ended.code, json.loads(ended.out)["attempts"]) == (0, 12_000)
    assert len(live.called()) == len(set(live.called())) == 20


@sqlite_only
async def test_a_signal_ends_it_between_two_batches(live: Scene, settings: dict[str, str]) -> None:
    before = (await many(live.engine, datetime.now(UTC), attempts=60_000)).isoformat()
    process = await start("prune", "--before", before, "--yes", **settings)
    while await count_old(live.engine) == 60_000:  # noqa: ASYNC110 -- another process gives no event to wait for
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended = await finish(process)
    left = await count_old(live.engine)
    assert 0 < left < 60_000
    assert ended.code == 1
    assert ended.out.endswith(f"Removed {60_000 - left:,} attempts and 0 runs.\n")
    assert ended.err == "share-worker: it was told to stop before all was gone; run it again for the rest\n"


# SHARE_KEEP_DAYS


@pytest.mark.parametrize(("keep_days", "kept"), [(0, 5), (30, 4), (15, 3), (3, 3)])
async def test_the_service_keeps_the_days_it_is_told_to_and_what_the_rules_read(
    engine: AsyncEngine, clock: HandClock, keep_days: int, kept: int
) -> None:
    """A number that was blocked is not asked for again for a week, so the rules read nine days of the ledger."""
    ages = [clock.now() - days * DAY for days in (0, 2, 9, 20, 40)]
    await add(engine, [row("chat")], [attempt("chat", at.date(), "shared", at) for at in ages])
    pruning = Pruning(engine, Rules(every_days=3), keep_days, clock=clock, stop=asyncio.Event())
    pruning.begin()
    await pruning.finished()
    assert len(await history(engine)) == kept
