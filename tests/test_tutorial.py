"""docs/getting-started.md, followed from top to bottom against a real simulator: each output is what a reader sees."""

import re
import shlex
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import httpx
import pytest

from tests.commands import ROOT, finish, share_worker, start
from tests.databases import sqlite_only
from tests.later import zone_where_it_is_noon
from tests.scene import Scene
from tests.test_docs import README, section

PAGE = (ROOT / "docs" / "getting-started.md").read_text()
TUTORIAL, _, OWN_ACCOUNT = PAGE.partition("\n## With your own account\n")
STEP = re.compile(r"```(?P<kind>sh|text)\n(?P<block>.*?)```|<!-- (?P<comment>.*?) -->", re.DOTALL)
PAGES_ADDRESS = "http://127.0.0.1:8090"
INSTALL = ["python3 -m venv .venv", ".venv/bin/pip install .", ". .venv/bin/activate"]
"""The only commands of the page that are not run: a test has no network."""

DIFFERS = {
    r"\d{8}T\d{6}Z-[0-9a-f]{6}": "PASS",
    r"\d{4}-\d\d-\d\d(T| )\d\d:\d\d(:\d\d)?[+-]\d\d(:\d\d)?": "TIME",
    "TIME = TIME": "TIME",
    r"\d{4}-\d\d-\d\d": "DAY",
    r"\d+(\.\d+)? (ms|s|min|h)\b": "SPAN",
    r"Etc/GMT[+-]\d+": "UTC",
    r"rerun 1 by \S+": "rerun 1 by YOU",
    r" +": " ",
}
"""What is different each time; columns are as wide as what is in them."""


@dataclass
class Reader:
    """Does what the page says, as a reader would type it."""

    address: str
    settings: dict[str, str] = field(default_factory=lambda: {"SHARE_TIMEZONE": zone_where_it_is_noon()})

    async def follow(self, block: str) -> str:
        """Type the commands of a block; what is then on the screen."""
        return "".join([await self._type(line) for line in block.replace("\\\n", "").splitlines()])

    async def _type(self, line: str) -> str:
        match shlex.split(line.replace(PAGES_ADDRESS, self.address), comments=True):
            case ["export", *variables]:
                self.settings |= dict(variable.split("=", 1) for variable in variables)
                return ""
            case ["curl", url]:
                async with httpx.AsyncClient() as client:
                    return (await client.get(url)).text
            case ["curl", "-X", "POST", url, "-d", body]:
                async with httpx.AsyncClient() as client:
                    return (await client.post(url, content=body)).raise_for_status().text
            case ["share-worker", *words]:
                ended = await share_worker(*words, **self.settings)
                told = [said for said in ended.err.splitlines(keepends=True) if said.startswith("share-worker: ")]
                return "".join(told) + ended.out.replace(self.address, PAGES_ADDRESS)
            case words:
                raise AssertionError(f"no reader of a test can type {words}")


def plain(text: str) -> str:
    for pattern, word in DIFFERS.items():
        text = re.sub(pattern, word, text)
    return text


def fits(shown: str, told: str) -> bool:
    """Whether a command told what the page shows; `...` there stands for anything."""
    pattern = "".join(
        ".*?" if part == "..." else re.escape(part) for part in re.split(r"(\.\.\.)", plain(shown.strip()))
    )
    return re.fullmatch(pattern, plain(told.strip()), re.DOTALL) is not None


def steps() -> Iterator[tuple[str, str]]:
    """The blocks of the tutorial in order: what to type, what is shown, and what the page tells its test."""
    for step in STEP.finditer(TUTORIAL):
        yield (step["kind"], step["block"]) if step["kind"] else ("comment", step["comment"])


@pytest.fixture
async def simulator() -> AsyncIterator[tuple[str, str]]:
    """The simulator, as step 2 of the page starts it, but on a free port: its address, and what it said."""
    ((_, command),) = [step for step in steps() if step[1].startswith("share-worker simulator")]
    words = shlex.split(command)[1:]
    process = await start(*["0" if word == "8090" else word for word in words])
    assert process.stdout is not None
    said = "".join([(await process.stdout.readline()).decode() for _ in range(4)])
    yield re.findall(r"http://127.0.0.1:\d+", said)[0], said
    process.send_signal(signal.SIGINT)
    assert (await finish(process)).code == 0


def ten_minutes_pass() -> None:
    with closing(sqlite3.connect("tutorial.db")) as ledger, ledger:
        for column in ("claimed_at", "finished_at"):
            earlier = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '-10 minutes')"
            ledger.execute(f"UPDATE share_attempts SET {column} = {earlier}")  # noqa: S608 -- fixed names


async def test_the_tutorial_shows_what_its_commands_print(simulator: tuple[str, str]) -> None:
    address, said = simulator
    reader, told = Reader(address), ""
    for kind, block in steps():
        if kind == "comment":
            assert block == "The test lets ten minutes pass here."
            ten_minutes_pass()
        elif kind == "text":
            assert fits(block, told), f"The page shows:\n{block}\nA reader sees:\n{told}"
            told = ""
        elif block.splitlines() != INSTALL:
            assert told == "", f"the page does not show what comes before {block!r}"
            is_simulator = block.startswith("share-worker simulator")
            told = said.replace(address, PAGES_ADDRESS) if is_simulator else await reader.follow(block)
    assert told == "", "the page does not show what its last commands print"


@sqlite_only
@pytest.mark.parametrize("way", [section("From zero to production", README), OWN_ACCOUNT], ids=["README", "tutorial"])
async def test_the_way_to_production_works_up_to_serve(way: str, live: Scene, settings: dict[str, str]) -> None:
    await live.add_chat("chat")
    *typed, last = re.findall(r"^share-worker .*", way.partition("```sh\n")[2].partition("```")[0], re.MULTILINE)
    for line in typed:
        ended = await share_worker(*shlex.split(line, comments=True)[1:], **settings)
        assert ended.code == 0, line
    assert await live.outcomes() == {"chat": "shared"}
    assert last.startswith("share-worker serve")


def test_a_page_that_shows_something_else_is_found() -> None:
    assert fits("  shared  13  ok\n...\ndue  1\n", "  shared     13  ok\nleft 2\ndue  1\n")
    assert not fits("  shared  13  ok\n", "  shared  12  ok\n")
    assert not fits("due  1\n", "due  1\nleft  2\n")
