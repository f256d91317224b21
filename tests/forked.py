"""`share-worker` as a process of its own, forked from one that has everything imported.

That takes some hundredths of a second; starting Python and importing the worker takes one. The process is real: it has
an id, hears signals, dies when it is killed, and closes its outputs when it ends. How Python itself starts and ends is
left to the tests that start the program: the deployment files, and outputs that cannot be written.
"""

import asyncio
import gc
import multiprocessing
import os
import pkgutil
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import worker
from worker import cli

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("pytest", "tests.killed", "tests.forked", "alembic.command", "rich.progress"),
        *(found.name for found in pkgutil.walk_packages(worker.__path__, "worker.") if "__main__" not in found.name),
    ]
)


class Forked:
    """A forked command; as far as tests use it, what `asyncio.subprocess.Process` is."""

    def __init__(self, process: ForkServerProcess, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        assert process.pid is not None
        self.pid: int = process.pid
        self.returncode: int | None = None
        self.stdout = stdout
        self.stderr = stderr
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._loop.add_reader(process.sentinel, self._end)

    def _end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self.returncode = self._process.exitcode
        self._process.close()
        self._gone.set()

    async def wait(self) -> int:
        """Wait for its end; return its exit code, or minus the signal that ended it."""
        await self._gone.wait()
        assert self.returncode is not None
        return self.returncode

    async def communicate(self, told: bytes | None = None) -> tuple[bytes, bytes]:
        """Read what it writes to its end, and wait for that."""
        assert told is None, "its stdin is empty"
        out, err, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


async def fork(words: Sequence[str], variables: Mapping[str, str], *, log: Path | None = None) -> Forked:
    """Start `share-worker` with these words, and these variables for its environment.

    `log`: a file that takes all its output; without one, it can be read from `stdout` and `stderr`.
    """
    (out, to_out), (err, to_err) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
    with to_out, to_err:
        places = {"folder": Path.cwd(), "out": to_out, "err": to_err, "log": log}
        process = FORKS.Process(target=_command, args=(list(words), dict(variables)), kwargs=places, daemon=True)
        process.start()
    return Forked(process, await _reader(out), await _reader(err))


async def _reader(pipe: Connection) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    with pipe:
        file = os.fdopen(os.dup(pipe.fileno()), "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


def _command(
    words: list[str], variables: dict[str, str], *, folder: Path, out: Connection, err: Connection, log: Path | None
) -> None:
    """What the program does, once Python has started as it does for the program."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, pipe in ((1, out), (2, err)):
        with pipe:
            os.dup2(pipe.fileno(), number)
        if log is not None:
            with log.open("ab") as file:
                os.dup2(file.fileno(), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.argv = ["share-worker", *words]
    warnings.simplefilter("error")
    try:
        cli.main()
    finally:
        gc.collect()  # what is left unclosed is said on stderr, where `finish` looks for it
