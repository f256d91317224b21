"""Running the real command line, as a process of its own."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEY = "simulated-key"


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
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        *words,
        env=environment(**settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> Ended:
    """Wait for a command's end."""
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def share_worker(*words: str, **settings: str) -> Ended:
    """Run `share-worker` to its end."""
    return await finish(await start(*words, **settings))
