"""`share-worker rerun`, as an admin meets it: shown first, asked, called once however many terminals do it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import KEY, answered, fed, one_line, share_worker, start
from tests.databases import sqlite_only
from tests.later import Later, ten_minutes_later, zone_where_it_is_noon
from tests.scene import LINE, Scene
from worker.clock import SystemClock
from worker.simulator.account import Account
from worker.simulator.faults import Fault
from worker.simulator.server import serving


@pytest.fixture
async def linq_clock() -> Later:
    return Later()


@pytest.fixture
async def live(engine: AsyncEngine, linq_clock: Later) -> AsyncIterator[Scene]:
    account = Account(clock=linq_clock.now)
    async with serving(account) as base_url:
        scene = Scene(engine=engine, account=account, base_url=base_url, clock=SystemClock())  # type: ignore[arg-type] # not moved
        scene.add_line()
        for chat_id in ("good", "lost", "no"):
            await scene.add_chat(chat_id)
        yield scene


@pytest.fixture
def settings(live: Scene, database_url: str) -> dict[str, str]:
    return {
        "LINQ_API_KEY": KEY,
        "LINQ_BASE_URL": live.base_url,
        "DATABASE_URL": database_url,
        "SHARE_TIMEZONE": zone_where_it_is_noon(),
        "SHARE_CONCURRENCY": "1",
    }


async def this_morning(live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    """A pass, ten minutes ago: one chat was shared with, one refused, and the answer for one was lost."""
    live.account.add_fault(Fault(path="share", chat_id="lost", drop="after", times=1))
    live.account.add_fault(Fault(path="share", chat_id="no", status=404, code=2012, times=1))
    for chat_id in ("no", "lost"):  # one after the other: the refusal makes the card inactive for the rest
        assert (await share_worker("run", **settings)).code == 0, chat_id
    assert await live.outcomes() == {"good": "shared", "lost": "unknown", "no": "rejected"}
    await ten_minutes_later(live, linq_clock)


async def test_a_dry_run_shows_each_chat_and_why_and_calls_nobody(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    ended = await share_worker("rerun", "--chat", "lost", "--chat", "no", "--chat", "nobody", "--dry-run", **settings)
    assert ended.code == 0
    assert ended.err == ""
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "lost unknown needs_force" in lines
    assert "no rejected 2012 allowed" in lines
    assert "nobody none unknown_chat" in lines
    assert "allowed 1 would be shared with again" in lines
    assert "needs_force 1 shared today, or perhaps shared; only with --force" in lines
    assert "chats 3" in lines
    assert len(live.called()) == 3


@sqlite_only
async def test_a_line_is_understood_however_it_is_spaced(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    spaced = f"{LINE[:2]} ({LINE[2:5]}) {LINE[5:8]}-{LINE[8:]}"
    ended = await share_worker("rerun", "--line", spaced, "--dry-run", "--json", **settings)
    assert ended.code == 0, ended.err
    assert [chat["chat_id"] for chat in json.loads(ended.out)["chats"]] == ["good", "lost", "no"]


@sqlite_only
async def test_it_asks_and_only_yes_is_yes(live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    await this_morning(live, linq_clock, settings)
    declined = await answered("", "rerun", "--outcome", "rejected", **settings)
    assert declined.code == 1
    assert "Share again with 1 chat? [y/N] " in declined.err
    assert "nothing was shared" in declined.err
    assert len(live.called()) == 3
    agreed = await answered("y", "rerun", "--outcome", "rejected", **settings)
    assert agreed.code == 0
    assert "shared  1  Linq accepted the share" in agreed.out
    assert Counter(live.called())["no"] == 2


@sqlite_only
async def test_with_nobody_to_ask_it_does_nothing(live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    await this_morning(live, linq_clock, settings)
    ended = await share_worker("rerun", "--outcome", "rejected", **settings)
    assert ended.code == 2
    assert ended.err == (
        "share-worker: stdin is not a terminal, so the question cannot be answered;"
        " add --yes to go ahead, or --dry-run to only look\n"
    )
    assert len(live.called()) == 3


async def test_the_ledger_keeps_who_asked_and_why(live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    await this_morning(live, linq_clock, settings)
    words = ["rerun", "--code", "2012", "--yes", "--by", "ada", "--reason", "the card was inactive", "--json"]
    ended = await share_worker(*words, **settings)
    assert ended.code == 0
    document = json.loads(ended.out)
    assert (document["trigger"], document["status"], document["tally"]["shared"]) == ("rerun", "completed", 1)
    _, again = await live.attempts("no")
    assert (again.sequence, again.outcome, again.run_id) == (1, "shared", document["run_id"])
    assert (again.requested_by, again.reason) == ("ada", "the card was inactive")


@sqlite_only
async def test_ids_come_from_stdin_too(live: Scene, linq_clock: Later, settings: dict[str, str]) -> None:
    await this_morning(live, linq_clock, settings)
    ended = await fed(b"good\n\n  lost\ngood\n", "rerun", "--chat", "-", "--force", "--yes", **settings)
    assert ended.code == 0
    assert "shared  2" in ended.out
    assert Counter(live.called()) == {"good": 2, "lost": 2, "no": 1}


async def test_two_terminals_at_once_make_one_call_for_each_chat(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    live.account.add_fault(Fault(path="share", delay_seconds=0.2))
    words = ["rerun", "--chat", "good", "--chat", "lost", "--chat", "no", "--force", "--yes", "--json"]
    processes = [await start(*words, **settings) for _ in range(2)]
    for process in processes:
        await process.communicate()
    assert Counter(live.called()) == {"good": 2, "lost": 2, "no": 2}


async def test_a_killed_rerun_leaves_a_claim_that_nobody_repeats(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    live.account.add_fault(Fault(path="share", delay_seconds=60, takes_effect=True))
    process = await start("rerun", "--chat", "no", "--yes", **settings)
    while len(live.called()) < 4:  # noqa: ASYNC110 -- another process gives no event to wait for
        await asyncio.sleep(0.005)
    process.kill()
    await process.communicate()
    live.account.clear_faults()
    again = await share_worker("rerun", "--chat", "no", "--force", "--yes", **settings)
    assert again.code == 1
    assert "a request is in flight" in again.out
    assert Counter(live.called())["no"] == 2


async def test_a_chat_whose_card_is_inactive_at_linq_is_not_called(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    live.account.deactivate_card(LINE)
    ended = await share_worker("rerun", "--chat", "no", "--force", "--yes", **settings)
    assert ended.code == 1
    assert "card_inactive" in ended.out
    assert ended.err == "share-worker: none of these chats may be shared with again\n"
    assert len(live.called()) == 3


@sqlite_only
async def test_nothing_that_fits_is_no_failure(live: Scene, settings: dict[str, str]) -> None:
    ended = await share_worker("rerun", "--outcome", "rejected", "--yes", **settings)
    assert (ended.code, ended.err) == (0, "")
    assert "No attempt of today matches." in ended.out


async def test_force_says_how_many_get_the_card_twice_and_a_limit_takes_the_first_ones(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    words = ("rerun", "--line", LINE, "--force")
    shown = await share_worker(*words, "--dry-run", **settings)
    warning = "Of these 3 chats, 1 were shared with today already and 1 perhaps were: they may get the card twice."
    assert warning in shown.out
    document = json.loads((await share_worker(*words, "--dry-run", "--json", "--limit", "1", **settings)).out)
    assert document["counts"] == {"allowed": 1, "beyond_limit": 2}
    assert (document["shared_earlier"], document["perhaps_shared_earlier"]) == (1, 0)
    ended = await share_worker(*words, "--limit", "1", "--yes", **settings)
    assert ended.code == 0
    assert Counter(live.called()) == {"good": 2, "lost": 1, "no": 1}


async def test_a_pass_is_named_by_the_beginning_of_its_id_and_an_unknown_one_is_refused(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    run_id = next(attempt.run_id for attempt in await live.attempts("no"))
    ended = await share_worker("rerun", "--run", run_id[:-2], "--dry-run", "--json", **settings)
    assert "no" in [chat["chat_id"] for chat in json.loads(ended.out)["chats"]]
    unknown = await share_worker("rerun", "--run", "19990101", "--yes", **settings)
    assert one_line(unknown, 2) == "share-worker: there is no pass '19990101'"


@sqlite_only
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("explain", "nobody"), 2, "there is no chat 'nobody'"),
        (("runs", "nothing"), 2, "there is no pass 'nothing'"),
        (("attempts", "--run", "nothing"), 2, "there is no pass 'nothing'"),
        (("attempts", "--day", "soon"), 2, "'soon' is not a day"),
        (("cards", "update", LINE), 2, "nothing to update"),
        (("chats", "restore"), 2, "say which chats to restore"),
        (("status", "--nonsense"), 2, "no such option"),
        (("pause", "--line", "+15550100009", "--yes"), 1, "has no chat of the line"),
        (("cards", "list"), 1, "the contact cards could not be read"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
async def test_json_is_a_document_whatever_happens(
    live: Scene, settings: dict[str, str], words: tuple[str, ...], code: int, error: str
) -> None:
    live.account.api_key = "another"
    ended = await share_worker(*words, "--json", **settings)
    assert ended.code == code
    document = json.loads(ended.out)
    assert list(document) == ["error"]
    assert error in document["error"]
    assert ended.err.endswith(f"share-worker: {document['error']}\n")


@sqlite_only
async def test_json_of_a_rerun_that_fits_nobody_is_its_plan(live: Scene, settings: dict[str, str]) -> None:
    none = await share_worker("rerun", "--outcome", "rejected", "--yes", "--json", **settings)
    assert (none.code, json.loads(none.out)["counts"]) == (0, {})
    not_due = await share_worker("rerun", "--chat", "good", "--yes", "--json", **settings)
    assert (not_due.code, json.loads(not_due.out)["counts"]) == (1, {"not_attempted": 1})


@sqlite_only
async def test_it_wants_to_be_told_which_attempts(settings: dict[str, str]) -> None:
    assert "--chat, --outcome, --code, --line or --run" in one_line(await share_worker("rerun", **settings), 2)


@sqlite_only
async def test_an_earlier_day_is_explained(settings: dict[str, str]) -> None:
    line = one_line(await share_worker("rerun", "--chat", "no", "--day", "yesterday", **settings), 2)
    assert " is over, and a share now would count for " in line
    assert "'share-worker run'" in line
    assert "has not begun" in one_line(await share_worker("rerun", "--chat", "a", "--day", "2999-01-01", **settings), 2)
    assert "'soon' is not a day" in one_line(await share_worker("rerun", "--chat", "a", "--day", "soon", **settings), 2)


@sqlite_only
async def test_a_wrong_line_and_an_empty_stdin_are_told(settings: dict[str, str]) -> None:
    assert "'0155' has no country code" in one_line(await share_worker("rerun", "--line", "0155", **settings), 2)
    ended = await fed(b"", "rerun", "--chat", "-", **settings)
    assert "stdin is empty; give one chat id a line" in one_line(ended, 2)


@sqlite_only
async def test_without_linq_nobody_is_called_and_it_says_so(
    live: Scene, linq_clock: Later, settings: dict[str, str]
) -> None:
    await this_morning(live, linq_clock, settings)
    live.account.api_key = "another"
    line = one_line(await share_worker("rerun", "--chat", "no", "--yes", **settings), 1)
    assert "the contact cards could not be read: 401/2004" in line
