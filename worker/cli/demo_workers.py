"""Real workers for the demonstration: `share-worker run` as processes of their own, which it may kill."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import worker
from worker.errors import WorkerError
from worker.proxy import VARIABLES
from worker.settings import OURS


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """Where workers work: their database, their Linq, and an empty folder, so that they find no `.env`."""

    database_url: str
    base_url: str
    api_key: str
    folder: Path


@asynccontextmanager
async def working(place: Workplace, *words: str, **settings: str) -> AsyncIterator[Process]:
    """A `share-worker run` with these further words and settings; it is dead once the block is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "worker", "run", "--quiet", *words),
        cwd=place.folder,
        env=_environment(place) | settings,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        kill(process)
        await process.communicate()


def kill(process: Process) -> None:
    """End a worker as `kill -9` does, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def completed(process: Process) -> None:
    """Wait until a worker has completed its pass.

    Raises:
        WorkerError: it did not complete it; the message is its last line.
    """
    out, err = await process.communicate()
    if process.returncode != 0:
        said = (err or out).decode(errors="replace").strip().splitlines() or ["it said nothing"]
        msg = f"a worker of the demonstration ended with exit code {process.returncode}: {said[-1]}"
        raise WorkerError(msg)


def _environment(place: Workplace) -> dict[str, str]:
    """This process's environment with the demonstration's settings in place of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in VARIABLES}
    package = str(Path(worker.__file__).parent.parent)
    return kept | {
        # The folder may differ from the one that `python -m worker` was started in and found its package in.
        "PYTHONPATH": os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")])),
        "DATABASE_URL": place.database_url,
        "LINQ_BASE_URL": place.base_url,
        "LINQ_API_KEY": place.api_key,
        "SHARE_MAX_PER_SECOND": "0",
        "LOG_LEVEL": "error",
    }
