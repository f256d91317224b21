"""Output that cannot be written: one line for a full disk, a quiet end for a closed pipe, and a pass in any case."""

import asyncio
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.commands import Ended, environment, share_worker, written_to
from tests.scene import Scene


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Which database it is makes no difference here."""
    (tmp_path / "worker.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'worker.db'}"


async def in_a_shell(line: str, settings: Mapping[str, str]) -> Ended:
    """Run a line of shell in which `share-worker` is the command."""
    script = f'share-worker() {{ {shlex.quote(sys.executable)} -m worker "$@"; }}\n{line}'
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize(
    "command",
    [
        *("attempts", "attempts --json", "attempts --csv", "runs", "status", "check", "run --dry-run", "--help"),
        *("chats list", "chats list --json", "chats export"),
    ],
)
async def test_a_full_disk_is_said_in_one_line(live: Scene, settings: dict[str, str], command: str) -> None:
    await live.add_chat("chat")
    await share_worker("run", **settings)
    ended = await written_to(Path("/dev/full"), *command.split(), **settings)
    assert ended == Ended(1, "", "share-worker: the output cannot be written: No space left on device\n")


async def test_python_does_not_complain_of_the_full_disk_as_it_ends() -> None:
    ended = await in_a_shell("share-worker --help > /dev/full", {})
    assert ended == Ended(1, "", "share-worker: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("command", ["attempts", "runs --json", "chats export", "--help"])
async def test_a_pipe_that_nobody_reads_ends_it_without_a_word(
    live: Scene, settings: dict[str, str], command: str
) -> None:
    await live.add_chat("chat")
    await share_worker("run", **settings)
    ended = await in_a_shell(f"share-worker {command} | true; test ${{PIPESTATUS[0]}} -ne 2", settings)
    assert ended.err == ""
    assert ended.code == 0


@pytest.mark.parametrize(
    ("command", "outputs"),
    [
        *(("run", outputs) for outputs in ("2>&-", ">&-", ">&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full")),
        *(("run --json", outputs) for outputs in ("<&- >&- 2>&-", ">/dev/full 2>/dev/full")),
    ],
)
async def test_a_pass_is_made_and_recorded_whatever_happens_to_its_output(
    live: Scene, settings: dict[str, str], outputs: str, command: str
) -> None:
    for number in range(5):
        await live.add_chat(f"chat-{number}")
    ended = await in_a_shell(f"share-worker {command} {outputs}", settings | {"SHARE_CONCURENCY": "3"})
    assert ended.code == (1 if ">/dev/full 2" in outputs else 0)
    assert len(live.account.share_calls) == 5
    assert await live.outcomes() == {f"chat-{number}": "shared" for number in range(5)}
    files = {path.name for path in Path.cwd().iterdir()}
    assert files <= {"worker.db", "worker.db-wal", "worker.db-shm"}, "nothing else was written"
