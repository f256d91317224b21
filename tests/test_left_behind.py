"""What is left unclosed, unawaited or unheard fails a test, in this process and in others; here that is proved."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment, finish

LEAKS = {
    "a_coroutine_that_is_never_awaited": """
        async def work(): pass
        work()
    """,
    "a_file_that_is_never_closed": """
        open(__file__)
    """,
    "a_socket_in_a_circle": """
        class Circle: pass
        circle = Circle()
        circle.itself, circle.socket = circle, socket.socket()
    """,
    "an_event_loop": """
        asyncio.new_event_loop()
    """,
    "a_thread_that_breaks": """
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    """,
    "a_finaliser_that_breaks": """
        class Broken:
            def __del__(self): raise ValueError
        Broken()
    """,
    "a_task_whose_error_nobody_hears": """
        async def work(): raise ValueError
        async def main():
            asyncio.create_task(work())
            await asyncio.sleep(0)
        asyncio.run(main())
    """,
}


async def python(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_each_kind_of_leak_fails_the_test_that_leaks(tmp_path: Path) -> None:
    for name, lines in LEAKS.items():
        body = "import asyncio, socket, threading\n\ndef test_it():\n" + lines
        (tmp_path / f"test_{name}.py").write_text(body)
    process = await python(
        *("-W", "default", "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-n", "1"),
        *("-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)),
    )
    out, _ = await process.communicate()
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S*?test_(\w+)\.py", out.decode(), re.MULTILINE))
    assert failed == set(LEAKS), out.decode()


async def test_what_a_command_leaves_unclosed_fails_the_test_that_runs_it() -> None:
    process = await python("-c", "import socket; socket.socket()")
    with pytest.raises(AssertionError, match="Exception ignored in"):
        await finish(process)
