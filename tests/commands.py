"""Running the real command line, as a process of its own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.leaks import leak

ROOT = Path(__file__).parent.parent
KEY = "simulated-key"
SIGNS = ("Exception ignored in", "was never awaited", "was destroyed but it is pending", "was never retrieved")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """The environment of a command: this machine's, without settings of ours but the given ones."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"} | settings


async def start(*words: str, **settings: str) -> asyncio.subprocess.Process:
    """Start `share-worker` with these words."""
    return await _start(words, settings, None)


async def _start(
    words: Sequence[str], settings: Mapping[str, str], stdin: int | None, stderr: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        *words,
        env=environment(**settings),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def finish(process: asyncio.subprocess.Process, told: bytes | None = None) -> Ended:
    """Wait for a command's end, and see that it gave no secret away and left nothing open; `told` goes to its stdin."""
    out, err = await process.communicate(told)
    return _ended(process, out, err)


def _ended(process: asyncio.subprocess.Process, out: bytes, err: bytes) -> Ended:
    assert process.returncode is not None
    ended = Ended(process.returncode, out.decode(), err.decode())
    assert leak(ended.out, ended.err) is None
    left = left_behind(ended.err)
    assert not left, "\n".join(left)
    return ended


def left_behind(err: str) -> list[str]:
    """What Python says of things that were left unclosed or unawaited; it changes no exit code."""
    return [line for line in err.splitlines() if any(sign in line for sign in SIGNS)]


async def share_worker(*words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end."""
    return await finish(await start(*words, **settings))


async def fed(told: bytes, *words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end, with something on its stdin."""
    return await finish(await _start(words, settings, asyncio.subprocess.PIPE), told)


def one_line(ended: Ended, code: int) -> str:
    """The one line on stderr that a command which could not do its work ends with."""
    assert ended.code == code, ended
    (line,) = ended.err.splitlines()
    assert line.startswith("share-worker: ")
    assert ended.out == ""
    return line


async def answered(answer: str, *words: str, **settings: str) -> Ended:
    """Run a command with a person at the keyboard, who gives this answer."""
    keyboard, stdin = os.openpty()
    try:
        process = await _start(words, settings, stdin)
        os.write(keyboard, answer.encode() + b"\n")
        return await finish(process)
    finally:
        os.close(stdin)
        os.close(keyboard)


async def seen(*words: str, **settings: str) -> Ended:
    """Run a command with a person at the screen: `err` is what was shown there, erased or not."""
    screen, stderr = os.openpty()
    try:
        process = await _start(words, {"TERM": "xterm"} | settings, None, stderr)
        os.close(stderr)
        reading = asyncio.create_task(asyncio.to_thread(_to_the_end, screen))
        out, _ = await process.communicate()
        err = await reading
    finally:
        os.close(screen)
    return _ended(process, out, err)


def _to_the_end(screen: int) -> bytes:
    """All that is written to a terminal until nobody has it open any more; Linux says so by an error."""
    told = b""
    with contextlib.suppress(OSError):
        while some := os.read(screen, 4096):
            told += some
    return told
