"""The worker among other programs: completion, terminals wide and narrow, colours, pipes that close."""

import asyncio
import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from tests.commands import KEY, environment, one_line, share_worker
from worker.simulator.account import Account
from worker.simulator.server import serving

COLOR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-7]|9[0-7]|4[0-7])m")
LINES = 40


@pytest.fixture
async def settings() -> AsyncIterator[dict[str, str]]:
    """An account with many cards, and no database."""
    account = Account()
    for number in range(LINES):
        account.put_card(f"+1415555{100 + number:04}", "Acme", f"Support {number}", f"https://example.com/{number}.png")
    async with serving(account) as base_url:
        yield {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": base_url, "DATABASE_URL": "sqlite:///none.db"}


async def on_a_terminal(words: Sequence[str], variables: Mapping[str, str], *, wide: int = 80) -> str:
    """What a command shows on a terminal so many columns wide, stdout and stderr together."""
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, wide, 0, 0))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        *words,
        env=environment(TERM="xterm-256color", **variables),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(screen, 65536):
                shown.extend(part)
        except OSError:  # the end of a terminal nobody holds any more
            pass

    await asyncio.to_thread(read)
    await process.wait()
    os.close(screen)
    return shown.decode().replace("\r\n", "\n")


async def completed(line: str, shell: str = "bash") -> list[str]:
    """What a shell is told to offer at the end of a line."""
    words = line.split(" ")
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_ARGS": line}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from worker.cli import app; app(prog_name='share-worker')",
        env=environment(**variables) | {"_SHARE_WORKER_COMPLETE": f"complete_{shell}"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return out.decode().split()


# completion and corrections


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("share-worker pau", ["pause"]),
        ("share-worker cards ", ["list", "create", "update"]),
        ("share-worker cards cr", ["create"]),
        ("share-worker cards update --f", ["--first-name"]),
    ],
)
async def test_a_shell_completes_commands_sub_commands_and_options(line: str, offered: list[str]) -> None:
    assert await completed(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_comes_with_the_command(shell: str) -> None:
    told = await share_worker("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert told.code == 0
    assert f"complete_{shell}" in told.out


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        (["pasue"], "Did you mean 'pause'"),
        (["cards", "lst"], "Did you mean 'list'?"),
        (["run", "--dryrun"], "--dry-run"),
        (["cards", "create", "+15550100001", "--firstname", "Ann"], "--first-name"),
        (["prune", "--befor", "2026-01-01"], "--before"),
    ],
)
async def test_a_mistyped_word_is_corrected(words: list[str], sign: str) -> None:
    ended = await share_worker(*words)
    line = one_line(ended, 2)
    assert sign in line
    assert re.search(r"; see 'share-worker( [a-z]+)* --help'$", line)


# terminals


async def test_no_color_is_respected_in_help_and_logs(settings: dict[str, str]) -> None:
    loud = settings | {"LOG_LEVEL": "info"}
    for words, sign in ((["--help"], "Usage"), (["run", "--limit", "1"], "pass.ended")):
        colored = await on_a_terminal(words, loud | {"NO_COLOR": ""})
        assert sign in colored
        assert COLOR.search(colored), "an empty one says nothing"
        plain = await on_a_terminal(words, loud | {"NO_COLOR": "1"})
        assert sign in plain
        assert not COLOR.search(plain), words


async def test_on_a_narrow_terminal_each_row_stays_one_line(settings: dict[str, str]) -> None:
    wide = 20
    shown = await on_a_terminal(["cards", "list"], settings, wide=wide)
    rows = [line for line in shown.splitlines() if line.startswith("+")]
    assert len(rows) == LINES
    assert all(len(row) <= wide and row.endswith("…") for row in rows)


async def test_help_fits_a_narrow_terminal() -> None:
    shown = await on_a_terminal(["cards", "create", "--help"], {}, wide=50)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, text.splitlines())) <= 50
    assert "Example:" in text


async def test_elsewhere_nothing_is_cut(settings: dict[str, str]) -> None:
    ended = await share_worker("cards", "list", COLUMNS="20", **settings)
    assert "https://example.com/39.png" in ended.out


# pipes


@pytest.mark.parametrize("words", [["--help"], ["cards", "list", "--json"]])
async def test_a_pipe_that_closes_ends_it_quietly(settings: dict[str, str], words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        *words,
        env=environment(**settings),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    _, err = await process.communicate()
    assert process.returncode == 1
    lines = [line for line in err.decode().splitlines() if "chats are not counted" not in line]
    assert lines == []


A_WORKER = "from worker.cli.shell import read_settings; read_settings(); import worker.service.serve"


async def printed_by(code: str, settings: dict[str, str]) -> list[str]:
    """The words that some Python prints in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment(**settings), stdout=asyncio.subprocess.PIPE
    )
    words, _ = await process.communicate()
    assert process.returncode == 0
    return words.decode().split()


@pytest.mark.parametrize(
    ("done", "spared"),
    [
        ("import worker.cli", "asyncio, httpx, pydantic, sqlalchemy, structlog"),  # all that --version and --help load
        (A_WORKER, "alembic, phonenumbers, psycopg, sqlite3"),
    ],
)
async def test_nothing_heavy_is_loaded_before_it_is_needed(settings: dict[str, str], done: str, spared: str) -> None:
    code = f"import sys; {done}; print(*sorted(set('{spared}'.split(', ')) & set(sys.modules)))"
    assert await printed_by(code, settings) == []
