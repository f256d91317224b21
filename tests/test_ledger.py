"""The ledger: one claim per chat and day whoever asks, each outcome written down, dead workers' claims settled."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial

import psycopg
import pytest
from sqlalchemy import Text, case, cast, event, insert, literal, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.due import LINE, NOW, RULES, add_card, add_chats, answered, claim_on
from tests.scene import Attempt, Scene
from worker import db
from worker.db.tables import UtcTime, chats, runs, share_attempts
from worker.ledger import attempts
from worker.ledger.attempts import Recorded
from worker.ledger.runs import close_dead_runs, close_run, open_run
from worker.outcomes import Answer, Claim, Outcome, RerunRequest, RunStatus, Trigger
from worker.rules.eligibility import Rules
from worker.sharing.candidates import SPAN, Due


@pytest.fixture
async def chat_ids(engine: AsyncEngine) -> list[str]:
    """Thirty chats that are due."""
    ids = [f"chat-{number:02}" for number in range(30)]
    async with db.write(engine) as connection:
        await add_card(connection)
        await add_chats(connection, *ids)
    return ids


async def claim(
    engine: AsyncEngine,
    among: list[str],
    *,
    run: str = "run",
    now: datetime = NOW,
    at_most: int = 100,
    rules: Rules = RULES,
) -> list[Claim]:
    async with db.write(engine) as connection:
        return await claim_on(connection, among, run=run, now=now, at_most=at_most, rules=rules)


async def record(engine: AsyncEngine, claims: list[Claim], outcome: Outcome, now: datetime = NOW) -> None:
    async with db.write(engine) as connection:
        await attempts.record(connection, answered(claims, outcome, now))


async def outcomes(engine: AsyncEngine) -> dict[str, str]:
    async with db.read(engine) as connection:
        rows = await connection.execute(select(share_attempts.c.chat_id, share_attempts.c.outcome))
        return {chat_id: outcome for chat_id, outcome in rows}  # noqa: C416 -- rows are no plain pairs


async def test_a_claim_is_a_row_before_anything_else(engine: AsyncEngine, chat_ids: list[str]) -> None:
    (made,) = await claim(engine, chat_ids[:1])
    async with db.read(engine) as connection:
        row = (await connection.execute(select(share_attempts))).one()
    assert made == Claim(chat_id="chat-00", share_day=date(2026, 3, 10), sequence=0, run_id="run", claimed_at=NOW)
    assert (row.chat_id, row.share_day, row.sequence) == (made.chat_id, made.share_day, 0)
    assert (row.outcome, row.run_id, row.claimed_at, row.finished_at) == ("claimed", "run", NOW, None)


async def test_no_more_is_claimed_than_asked_for_and_in_the_order_of_the_key(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    made = await claim(engine, chat_ids[::-1], at_most=7)
    assert [one.chat_id for one in made] == chat_ids[:7]


@pytest.mark.parametrize(
    "request_", [None, RerunRequest(by="ada", reason="a new photo"), RerunRequest(by="ada", reason=None)]
)
async def test_who_asked_for_a_call_and_why_is_kept_with_the_claim(
    engine: AsyncEngine, chat_ids: list[str], request_: RerunRequest | None
) -> None:
    async with db.write(engine) as connection:
        await attempts.claim(
            connection,
            partial(Due(RULES).claimable, NOW),
            rerun=request_,
            run_id="run",
            day=RULES.share_day(NOW),
            now=NOW,
            among=chat_ids[:1],
            at_most=1,
        )
        row = (await connection.execute(select(share_attempts))).one()
    assert (row.requested_by, row.reason) == ((request_.by, request_.reason) if request_ else (None, None))


async def test_a_second_claim_on_the_same_day_is_refused(engine: AsyncEngine, chat_ids: list[str]) -> None:
    first = await claim(engine, chat_ids)
    again = await claim(engine, chat_ids, run="other", now=NOW + timedelta(hours=5))
    assert len(first) == 30
    assert again == []


@pytest.mark.parametrize("outcome", [Outcome.SHARED, Outcome.REJECTED, Outcome.UNKNOWN])
async def test_whatever_may_have_been_a_call_is_not_claimed_again_that_day(
    engine: AsyncEngine, chat_ids: list[str], outcome: Outcome
) -> None:
    await record(engine, await claim(engine, chat_ids[:1]), outcome)
    assert await claim(engine, chat_ids[:1], run="other", now=NOW + timedelta(hours=5)) == []
    assert await outcomes(engine) == {"chat-00": outcome.value}


async def test_what_was_never_sent_is_claimed_again_in_its_own_row(engine: AsyncEngine, chat_ids: list[str]) -> None:
    await record(engine, await claim(engine, chat_ids[:1]), Outcome.UNSENT)
    later = NOW + timedelta(minutes=5)
    (again,) = await claim(engine, chat_ids[:1], run="other", now=later)
    async with db.read(engine) as connection:
        row = (await connection.execute(select(share_attempts))).one()
    assert again.claimed_at == later
    assert (row.outcome, row.run_id, row.sequence) == ("claimed", "other", 0)
    assert (row.finished_at, row.http_status) == (None, None)


async def test_the_database_refuses_a_second_row_whatever_the_code_does(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    (made,) = await claim(engine, chat_ids[:1])
    row = {"chat_id": made.chat_id, "share_day": made.share_day, "sequence": 0, "claimed_at": NOW}
    with pytest.raises(IntegrityError):
        async with db.write(engine) as connection:
            await connection.execute(insert(share_attempts).values(**row, outcome="claimed", run_id="rogue"))


async def test_a_chat_that_is_not_due_any_more_is_not_claimed(engine: AsyncEngine, chat_ids: list[str]) -> None:
    async with db.write(engine) as connection:
        await connection.execute(update(chats).where(chats.c.id == "chat-03").values(paused_at=NOW))
    made = await claim(engine, chat_ids)
    assert [one.chat_id for one in made] == [chat_id for chat_id in chat_ids if chat_id != "chat-03"]


async def test_workers_that_claim_at_once_never_get_the_same_chat(
    database_url: str, engine: AsyncEngine, chat_ids: list[str]
) -> None:
    async def worker(name: str) -> list[Claim]:
        async with db.opened(db.parse_url(database_url)) as own:
            made: list[Claim] = []
            for _ in range(6):
                made += await claim(own, chat_ids, run=name, at_most=4)
            return made

    made = [one for claims in await asyncio.gather(*(worker(f"run-{n}") for n in range(5))) for one in claims]
    assert len(made) == len({one.chat_id for one in made})
    assert await outcomes(engine) == {one.chat_id: "claimed" for one in made}
    assert len(made) >= 20


async def test_two_workers_with_different_dates_cannot_both_claim_a_chat(
    database_url: str, engine: AsyncEngine, chat_ids: list[str]
) -> None:
    """One clock is a minute before midnight, the other a minute after: two days, two keys, and still one call."""
    before, after = datetime(2026, 3, 10, 23, 59, tzinfo=UTC), datetime(2026, 3, 11, 0, 1, tzinfo=UTC)

    async def worker(name: str, now: datetime) -> list[Claim]:
        async with db.opened(db.parse_url(database_url)) as own:
            made: list[Claim] = []
            for _ in range(10):
                made += await claim(own, chat_ids, run=name, at_most=3, now=now)
            return made

    made = await asyncio.gather(worker("slow", before), worker("fast", after))
    claimed = [one.chat_id for claims in made for one in claims]
    assert len(claimed) == len(set(claimed))


async def test_on_postgresql_a_claim_that_is_not_yet_committed_hides_its_chat(
    copied_postgresql: str,
) -> None:
    """The other worker's day is another one, so the key alone would not refuse it; the lock and the second look do."""
    url = db.parse_url(copied_postgresql)
    async with db.opened(url) as one, db.opened(url) as other:
        async with db.write(one) as connection:
            await add_card(connection)
            await add_chats(connection, "a", "b")
        tomorrow = NOW + timedelta(days=1)
        async with db.write(one) as first:
            mine = await attempts.claim(
                first,
                partial(Due(RULES).claimable, NOW),
                run_id="one",
                day=RULES.share_day(NOW),
                now=NOW,
                among=["a", "b"],
                at_most=1,
            )
            theirs = await claim(other, ["a", "b"], run="other", now=tomorrow)
        assert [made.chat_id for made in mine] == ["a"]
        assert [made.chat_id for made in theirs] == ["b"]


async def test_an_answer_is_written_down_whole(engine: AsyncEngine, chat_ids: list[str]) -> None:
    made = await claim(engine, chat_ids[:1])
    answer = Answer(
        outcome=Outcome.REJECTED, http_status=404, error_code=2012, error_message="no card", trace_id="trace-1"
    )
    async with db.write(engine) as connection:
        await attempts.record(
            connection, [Recorded(claim=made[0], answer=answer, finished_at=NOW + timedelta(seconds=2))]
        )
    async with db.read(engine) as connection:
        row = (await connection.execute(select(share_attempts))).one()
    assert (row.outcome, row.http_status, row.error_code) == ("rejected", 404, 2012)
    assert (row.error_message, row.trace_id) == ("no card", "trace-1")
    assert row.finished_at == NOW + timedelta(seconds=2)


async def test_the_answers_of_a_turn_keep_their_own_words_whatever_is_in_them(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    words = [
        None,
        "",
        "null",
        "NULL",
        'say "no"',
        "{a,b}",
        r"C:\new\u0041",
        "two\nlines\t\x7f",
        "naïve 日本 👩‍👩‍👧",
        "%s :x $1",
    ]
    claims = await claim(engine, chat_ids[: len(words)])
    answers = [
        Answer(outcome=Outcome.REJECTED, error_code=number or None, error_message=word, trace_id=word)
        for number, word in enumerate(words)
    ]
    async with db.write(engine) as connection:
        await attempts.record(
            connection,
            [
                Recorded(claim=made, answer=answer, finished_at=NOW + timedelta(microseconds=number))
                for number, (made, answer) in enumerate(zip(claims, answers, strict=True))
            ],
        )
    async with db.read(engine) as connection:
        rows = (await connection.execute(select(share_attempts).order_by(share_attempts.c.chat_id))).all()
    assert [row.error_message for row in rows] == words
    assert [row.trace_id for row in rows] == words
    assert [row.error_code for row in rows] == [answer.error_code for answer in answers]
    assert [row.finished_at for row in rows] == [NOW + timedelta(microseconds=number) for number in range(len(words))]


async def test_recording_twice_does_no_harm(engine: AsyncEngine, chat_ids: list[str]) -> None:
    made = await claim(engine, chat_ids[:2])
    await record(engine, made, Outcome.SHARED)
    await record(engine, made, Outcome.SHARED)
    assert await outcomes(engine) == {"chat-00": "shared", "chat-01": "shared"}


@pytest.mark.parametrize("first", [Outcome.SHARED, Outcome.REJECTED, Outcome.UNSENT])
async def test_a_recorded_answer_is_not_changed_by_a_later_word(
    engine: AsyncEngine, chat_ids: list[str], first: Outcome
) -> None:
    made = await claim(engine, chat_ids[:1])
    await record(engine, made, first)
    for later in Outcome:
        await record(engine, made, later)
        assert await outcomes(engine) == {"chat-00": first.value}


async def test_an_answer_to_another_claim_than_the_one_in_the_table_is_not_taken(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    (made,) = await claim(engine, chat_ids[:1])
    for changed in (
        {"run_id": "stranger"},
        {"claimed_at": NOW - timedelta(seconds=1)},
        {"sequence": 1},
        {"share_day": made.share_day + timedelta(days=1)},
        {"chat_id": "chat-01"},
    ):
        await record(engine, [replace(made, **changed)], Outcome.REJECTED)
        assert await outcomes(engine) == {"chat-00": "claimed"}


async def test_the_claims_of_dead_workers_become_unknown(engine: AsyncEngine, chat_ids: list[str]) -> None:
    await claim(engine, chat_ids[:2], run="dead", now=NOW - timedelta(minutes=15, seconds=1))
    await claim(engine, chat_ids[2:4], run="alive", now=NOW - timedelta(minutes=15))
    await record(engine, await claim(engine, chat_ids[4:5], now=NOW - timedelta(hours=2)), Outcome.SHARED)
    async with db.write(engine) as connection:
        assert await attempts.settle_stale(connection, NOW) == 2
        row = (await connection.execute(select(share_attempts).where(share_attempts.c.chat_id == "chat-00"))).one()
    assert row.finished_at == NOW
    assert "the worker ended" in row.error_message
    assert await outcomes(engine) == {
        "chat-00": "unknown",
        "chat-01": "unknown",
        "chat-02": "claimed",
        "chat-03": "claimed",
        "chat-04": "shared",
    }
    assert await claim(engine, chat_ids[:4], run="next", now=NOW + timedelta(hours=3)) == []


async def test_an_answer_that_comes_after_its_claim_was_settled_still_counts(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    """A worker that lost its database for long is alive all the same, and knows what Linq answered."""
    made = await claim(engine, chat_ids[:1])
    async with db.write(engine) as connection:
        await attempts.settle_stale(connection, NOW + timedelta(minutes=20))
    await record(engine, made, Outcome.SHARED, NOW + timedelta(minutes=21))
    assert await outcomes(engine) == {"chat-00": "shared"}


async def test_released_claims_are_due_again_and_others_are_left_alone(
    engine: AsyncEngine, chat_ids: list[str]
) -> None:
    made = await claim(engine, chat_ids[:4], run="mine")
    await record(engine, made[:1], Outcome.SHARED)
    never_committed = replace(made[3], chat_id="chat-20")
    async with db.write(engine) as connection:
        await attempts.release(connection, [*made[:2], never_committed], why="nothing was sent", now=NOW)
        row = (await connection.execute(select(share_attempts).where(share_attempts.c.chat_id == "chat-01"))).one()
    assert (row.error_message, row.finished_at) == ("nothing was sent", NOW)
    assert await outcomes(engine) == {
        "chat-00": "shared",
        "chat-01": "unsent",
        "chat-02": "claimed",
        "chat-03": "claimed",
    }
    assert [one.chat_id for one in await claim(engine, chat_ids[:4], run="next")] == ["chat-01"]


async def test_a_run_is_written_down_from_beginning_to_end(engine: AsyncEngine) -> None:
    day = date(2026, 3, 10)
    async with db.write(engine) as connection:
        await open_run(connection, run_id="run", trigger=Trigger.COMMAND, share_day=day, worker="host:1", now=NOW)
        await open_run(connection, run_id="other", trigger=Trigger.COMMAND, share_day=day, worker="host:2", now=NOW)
        mine = select(runs).where(runs.c.id == "run")
        running = (await connection.execute(mine)).one()
        await close_run(
            connection,
            run_id="run",
            status=RunStatus.STOPPED,
            detail="told to",
            tally={"shared": 3, "skipped": {"paused": 1}},
            now=NOW + timedelta(minutes=1),
        )
        ended = (await connection.execute(mine)).one()
        other = (await connection.execute(select(runs).where(runs.c.id == "other"))).one()
    assert (running.status, running.trigger, running.share_day, running.worker) == ("running", "command", day, "host:1")
    assert (ended.status, ended.detail, ended.finished_at) == ("stopped", "told to", NOW + timedelta(minutes=1))
    assert ended.tally == {"shared": 3, "skipped": {"paused": 1}}
    assert (other.status, other.finished_at, other.tally) == ("running", None, None)


async def test_runs_that_cannot_be_running_any_more_are_closed(engine: AsyncEngine) -> None:
    today = date(2026, 3, 10)
    async with db.write(engine) as connection:
        for name, worker, day in (
            ("mine", "host:1", today),
            ("theirs", "host:2", today),
            ("old", "host:3", today - timedelta(days=2)),
            ("yesterday", "host:4", today - timedelta(days=1)),
        ):
            await open_run(connection, run_id=name, trigger=Trigger.SCHEDULE, share_day=day, worker=worker, now=NOW)
        assert await close_dead_runs(connection, workers=["host:1"], today=today, now=NOW) == 2
        rows = (await connection.execute(select(runs.c.id, runs.c.status))).all()
    assert dict(rows) == {"mine": "failed", "theirs": "running", "old": "failed", "yesterday": "running"}


async def test_the_ledger_outlives_its_chats(scene: Scene) -> None:
    await scene.add_chat("chat")
    await scene.one_pass()
    async with db.write(scene.engine) as connection:
        await connection.execute(chats.delete())
    (left,) = await scene.attempts()
    assert isinstance(left, Attempt)
    assert (left.chat_id, left.outcome) == ("chat", Outcome.SHARED)
    await scene.add_chat("chat")
    await scene.one_pass()
    assert scene.called() == ["chat"], "a chat that was deleted and came back keeps its history"


async def test_on_postgresql_the_key_refuses_a_row_that_nobody_could_see(copied_postgresql: str) -> None:
    """Somebody who takes no lock has written the day's row, and commits while the claim waits for it."""
    url = db.parse_url(copied_postgresql)
    async with db.opened(url) as one, db.opened(url) as other:
        async with db.write(one) as connection:
            await add_card(connection)
            await add_chats(connection, "chat")
        row = {"chat_id": "chat", "share_day": NOW.date(), "sequence": 0, "claimed_at": NOW, "outcome": "unknown"}
        async with db.write(one) as connection:
            await connection.execute(insert(share_attempts).values(**row, run_id="rogue"))
            claiming = asyncio.create_task(claim(other, ["chat"], run="late"))
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not (await connection.execute(waiting)).scalar_one():  # noqa: ASYNC110 -- the server tells nobody
                await asyncio.sleep(0)
        assert await claiming == []
        assert await outcomes(one) == {"chat": "unknown"}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_on_postgresql_the_verdict_is_asked_again_under_the_lock(copied_postgresql: str, isolation: str) -> None:
    """Another worker, whose clock says yesterday, has called between the look at the candidates and the claim.

    A database may be set to keep a transaction at what it saw first; a claim must see what came in between.
    """
    url = db.parse_url(copied_postgresql)
    with psycopg.connect(copied_postgresql, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {url.database} SET default_transaction_isolation = '{isolation}'")
    async with db.opened(url) as engine:
        async with db.write(engine) as connection:
            await add_card(connection)
            await add_chats(connection, "chat")

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def call_just_before(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO share_attempts"):
                with psycopg.connect(copied_postgresql, autocommit=True) as fast:
                    fast.execute(
                        "INSERT INTO share_attempts (chat_id, share_day, sequence, outcome, run_id, claimed_at)"
                        " VALUES ('chat', %s, 0, 'shared', 'yesterday', %s)",
                        (NOW.date() - timedelta(days=1), NOW - timedelta(seconds=1)),
                    )

        assert await claim(engine, ["chat"]) == []


async def test_the_candidates_are_read_a_window_at_a_time_each_once(engine: AsyncEngine, chat_ids: list[str]) -> None:
    windows = []
    after: str | None = ""
    async with db.read(engine) as connection:
        while after is not None:
            window = await Due(RULES).read_ahead(connection, NOW, after=after, at_most=12)
            windows.append(list(window.line_of))
            after = window.after
    assert windows == [chat_ids[:12], chat_ids[12:24], chat_ids[24:]]


async def test_the_walk_goes_on_where_a_span_of_the_table_ends(engine: AsyncEngine) -> None:
    due = (0, SPAN - 1, SPAN, SPAN + 9)
    numbers = select(literal(0).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < due[-1]))
    rows = select(
        cast(numbers.c.n + 100_000, Text),
        literal(LINE),
        case((numbers.c.n.in_(due), "iMessage"), else_="SMS"),
        literal(NOW - timedelta(hours=2), UtcTime()),
    )
    walked, after = [], ""
    async with db.write(engine) as connection:
        await add_card(connection)
        names = ["id", "from_number", "service", "last_outbound_at"]
        await connection.execute(insert(chats).from_select(names, rows))
        while (window := await Due(RULES).read_ahead(connection, NOW, after=after, at_most=3)).after is not None:
            walked.append(list(window.line_of))
            after = window.after
    assert [*walked, list(window.line_of)] == [["100000", str(100_000 + SPAN - 1)], [str(100_000 + n) for n in due[2:]]]
