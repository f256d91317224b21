"""Where a pass's time goes: samples of a whole pass, taken by py-spy, sorted by the part of the worker at work."""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from bench import machine
from bench.stage import Kind, Stage
from bench.throughput import IN_FLIGHT

PARTS: Final = (
    ("the event loop, waiting", ("select (selectors.py",)),
    ("logs", ("worker/logs.py", "structlog/", "logging/__init__.py")),
    ("request: HTTP (llhttp, httpx, sockets)", ("worker/linq/", "httpx/")),
    ("claim", ("claim (worker/ledger/attempts.py",)),
    ("record", ("record (worker/ledger/attempts.py",)),
    (
        "walk, cards, tally",
        (
            "_look (worker/sharing/calls.py",
            "_count (worker/sharing/share_pass.py",
            "_store_cards (worker/sharing/share_",
        ),
    ),
    ("commit, begin, connections", ("worker/db/", "sqlalchemy/", "psycopg/", "aiosqlite/", "sqlite3/")),
    ("the loop of the pass, tasks", ("worker/sharing/calls.py",)),
)
"""The parts, and the frames by which they are known; the first that fits takes the sample."""

OTHERS: Final = "the event loop, working"


def measure(stage: Stage, kind: Kind) -> dict[str, float]:
    """The share of each part in a pass at an API of 0 ms, in percent; the imports before it are left out."""
    shares = 2_000 if stage.quick else 10_000
    with (
        machine.fake_api(stage.server_core) as base_url,
        stage.chats(kind, shares + IN_FLIGHT, due=shares + IN_FLIGHT) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        samples = Path(folder) / "samples"
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", "500", "--format", "raw"]
        command += ["--idle", "--threads", "--output", str(samples), "--", sys.executable, "-m", "bench.measure"]
        command += [f"ours-{kind}", "--base-url", base_url, "--database", url, "--in-flight", str(IN_FLIGHT)]
        command += ["--shares", str(shares)]
        if stage.client_core is not None:
            command += ["--core", str(stage.client_core)]
        subprocess.run(command, check=True, capture_output=True)
        lines = samples.read_text().splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if "timed (bench" in stack or _is_of_the_pass(stack):
            found[_part(stack)] += int(count)
    total = found.total()
    names = [name for name, _ in PARTS] + [OTHERS]
    return {name: 100 * found[name] / total for name in names if found[name]}


def _is_of_the_pass(stack: str) -> bool:
    return "_run_once" in stack and "<frozen importlib" not in stack and "MainThread" in stack


def _part(stack: str) -> str:
    return next((name for name, signs in PARTS if any(sign in stack for sign in signs)), OTHERS)
