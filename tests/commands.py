"""Running the real command line: in this process, or where the process itself is meant, as one of its own.

Starting Python and loading the worker takes longer than most commands. So `share_worker`, `fed`, `answered` and
`written_to` run a command in a thread of this process, while the test's event loop serves it the simulated Linq.
Signals, kills, screens and commands side by side need real processes: `start` and `finish`, `share_worker_process`,
`seen`.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import typer.rich_utils

from tests.forked import Forked, fork
from tests.leaks import leak
from tests.logging_state import logging_as_it_was
from worker import cli

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


async def start(*words: str, **settings: str) -> Forked:
    """Start `share-worker` with these words, with nothing on its stdin."""
    return await fork(words, environment(**settings))


async def start_program(
    words: Sequence[str],
    settings: Mapping[str, str],
    *,
    stdin: int = asyncio.subprocess.DEVNULL,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start a Python that runs `share-worker` with these words."""
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


async def finish(process: asyncio.subprocess.Process | Forked, told: bytes | None = None) -> Ended:
    """Wait for a command's end, and see that it gave no secret away and left nothing open; `told` goes to its stdin."""
    out, err = await process.communicate(told)
    return _ended(process, out, err)


def _ended(process: asyncio.subprocess.Process | Forked, out: bytes, err: bytes) -> Ended:
    assert process.returncode is not None
    return _checked(Ended(process.returncode, out.decode(), err.decode()))


def _checked(ended: Ended) -> Ended:
    assert leak(ended.out, ended.err) is None
    left = left_behind(ended.err)
    assert not left, "\n".join(left)
    return ended


def left_behind(err: str) -> list[str]:
    """What Python says of things that were left unclosed or unawaited; it changes no exit code."""
    return [line for line in err.splitlines() if any(sign in line for sign in SIGNS)]


async def share_worker(*words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end, in this process."""
    return await fed(b"", *words, **settings)


async def fed(stdin: bytes, *words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end, in this process, with something on its stdin."""
    return _checked(await asyncio.to_thread(_run_here, BytesIO(stdin), BytesIO(), words, settings))


async def written_to(file: Path, *words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end, in this process, with a file or device for its stdout."""
    with file.open("wb") as out:
        return _checked(await asyncio.to_thread(_run_here, BytesIO(), out, words, settings))


async def answered(answer: str, *words: str, **settings: str) -> Ended:
    """Run a command in this process, with a person at the keyboard who gives this answer."""
    keyboard, terminal = os.openpty()
    os.write(keyboard, answer.encode() + b"\n")
    try:
        with os.fdopen(terminal, "rb") as stdin:
            return _checked(await asyncio.to_thread(_run_here, stdin, BytesIO(), words, settings))
    finally:
        os.close(keyboard)


async def share_worker_process(*words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end, as a process of its own."""
    return await finish(await start(*words, **settings))


_one_at_a_time = threading.Lock()


def _run_here(stdin: BinaryIO, stdout: BinaryIO, words: Sequence[str], settings: Mapping[str, str]) -> Ended:
    """What the process would do, on this thread; whatever is raised but an exit is a failure of the test."""
    variables = environment(**settings)
    encoding = variables.get("PYTHONIOENCODING", "utf-8")
    stderr = BytesIO()
    streams = (
        TextIOWrapper(stdin, encoding),
        TextIOWrapper(stdout, encoding),
        TextIOWrapper(stderr, encoding, "backslashreplace"),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_at_a_time)
        stack.enter_context(patch.dict(os.environ, variables, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["share-worker", *words]))
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            stack.callback(stream.detach)  # or it would close what is not its own
            stack.enter_context(patch.object(sys, name, stream))
        stack.enter_context(patch.object(typer.rich_utils, "FORCE_TERMINAL", None))  # it read the environment
        stack.enter_context(_without_signals())
        stack.enter_context(logging_as_it_was())
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
    assert isinstance(code, int)
    out = stdout.getvalue() if isinstance(stdout, BytesIO) else b""
    return Ended(code, out.decode(encoding), stderr.getvalue().decode(encoding))


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """No handler is installed: Python does so on the main thread only, and no signal is sent to this process."""
    loop = asyncio.SelectorEventLoop
    with (
        patch.object(signal, "signal"),
        patch.object(loop, "add_signal_handler"),
        patch.object(loop, "remove_signal_handler"),
    ):
        yield


def one_line(ended: Ended, code: int) -> str:
    """The one line on stderr that a command which could not do its work ends with."""
    assert ended.code == code, ended
    (line,) = ended.err.splitlines()
    assert line.startswith("share-worker: ")
    assert ended.out == ""
    return line


async def seen(*words: str, **settings: str) -> Ended:
    """Run a command with a person at the screen: `err` is what was shown there, erased or not."""
    screen, stderr = os.openpty()
    try:
        process = await start_program(words, {"TERM": "xterm"} | settings, stderr=stderr)
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
