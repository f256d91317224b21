"""The demonstration: what it does to its workers, what it counts, and what it leaves behind."""

import re
import signal
import sqlite3
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.commands import finish, one_line, share_worker, start
from tests.scene import until
from worker.cli import demo, demo_acts
from worker.simulator.account import Account
from worker.simulator.server import serving


async def test_the_demo_kills_loses_and_races_and_nobody_is_shared_with_twice(tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    # The user's own settings would stop each worker, and with them the demo.
    ended = await share_worker("demo", "--folder", str(folder), SHARE_CONCURRENCY="none", ALL_PROXY="planted://")
    assert (ended.code, ended.err) == (0, "")
    said = ended.out

    def counts(sentence: str) -> list[int]:
        (found,) = re.findall(sentence, said)
        return [int(count) for count in found]

    assert re.findall(r"^  chats +(\d+)$", said, re.MULTILINE) == ["400", "400"], "the sync and the first pass"
    first, left = counts(r"  shared +(\d+) .*\n  left +(\d+) ")
    shared, in_flight = counts(r"had shared with (\d+) chats?, and (\d+) more requests")
    kept, one, other = counts(r"worker shared with (\d+) chats[^$]*One shared with (\d+) chats?, the other with (\d+)")
    assert min(shared, in_flight, one, other) > 0
    assert first + shared + in_flight + kept + 1 + one + other == first + left
    assert f"   Nobody: {first + left} chats had their turn today." in said
    requests, chats = counts(r"Linq's own count: (\d+) requests to share, in (\d+) different chats.")
    assert requests == chats
    assert "\nNobody was shared with twice.\n" in said

    with sqlite3.connect(folder / "share-worker.db") as connection:
        ledger = dict(connection.execute("SELECT outcome, count(*) FROM share_attempts GROUP BY outcome"))
        lost = connection.execute("SELECT chat_id FROM share_attempts WHERE outcome = 'unknown'").fetchone()
    connection.close()
    assert ledger == {"shared": first + shared + kept + one + other, "claimed": in_flight, "unknown": 1}
    assert f"explain {lost[0]} " in said
    assert [file.name for file in folder.iterdir()] == ["share-worker.db"]
    again = one_line(await share_worker("demo", "--folder", str(folder)), 2)
    assert "exists already; name another folder" in again


async def test_a_chat_that_is_shared_with_twice_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def call_again(scene: demo_acts.Scene) -> tuple[Counter[str], Counter[str]]:
        scene.account.log_share(scene.account.share_calls[0].chat_id)
        return Counter(), Counter()

    async def no_worker(_scene: demo_acts.Scene) -> Counter[str]:
        return Counter()

    async def no_loss(_scene: demo_acts.Scene) -> tuple[Counter[str], str]:
        return Counter(), "none"

    monkeypatch.setattr(demo_acts, "kill_one", no_worker)
    monkeypatch.setattr(demo_acts, "lose_one", no_loss)
    monkeypatch.setattr(demo_acts, "race_two", call_again)
    ended = await share_worker("demo", "--folder", str(tmp_path))
    file = tmp_path / "share-worker.db"
    assert ended.code == 1
    assert "Linq's own count: 320 requests to share, in 319 different chats." in ended.out
    assert "Nobody was shared with twice" not in ended.out
    assert ended.err == (
        f"share-worker: 1 chat of the demo got two requests to share; please report this, with {file}\n"
    )
    assert file.exists()


async def test_ctrl_c_ends_the_demo_and_its_workers_with_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    process = await start("demo", TMPDIR=str(tmp_path))
    assert process.stdout is not None
    while not (await process.stdout.readline()).startswith(b"3. Crash"):
        pass
    await until(lambda: len(processes_of(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    ended = await finish(process)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert re.fullmatch(r"share-worker: the demo was stopped; its workers are ended, and .* is removed", line)
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def processes_of(temporary: Path) -> list[str]:
    """The ids of the processes that have this folder for their temporary files."""
    found = []
    for variables in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"TMPDIR={temporary}\0".encode() in variables.read_bytes():
                found.append(variables.parent.name)
    return found


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/proc/nowhere", "cannot be made"),
        ("/dev/null/x", "cannot be made"),
        ("/proc", "cannot be written"),
        ("why?", "has a '?' in its name"),
    ],
)
async def test_the_demo_says_where_it_cannot_go(folder: str, why: str) -> None:
    assert why in one_line(await share_worker("demo", "--folder", folder), 2 if "?" in folder else 1)


async def test_the_demo_says_that_it_cannot_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new"
    async with serving(Account()) as taken:
        port = int(taken.rpartition(":")[2])
        monkeypatch.setattr(demo, "serving", partial(serving, port=port))
        line = one_line(await share_worker("demo", "--folder", str(folder)), 1)
    assert f"the simulated Linq cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert not folder.exists()
