"""The documents against the code: every setting, command, verdict, outcome and log event, by its real name."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import typer.main
from dotenv import dotenv_values
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Route

from tests.conftest import HandClock
from tests.databases import sqlite_only
from worker import cli
from worker.chats.rows import COLUMNS
from worker.chats.sync import Synced, counts
from worker.db.tables import metadata
from worker.linq.answers import ErrorCode
from worker.outcomes import Outcome, RunStatus, Trigger
from worker.proxy import VARIABLES
from worker.rules.eligibility import Rules, Verdict
from worker.rules.schedule import Schedule
from worker.service.metrics import Metrics
from worker.settings import SECRETS, Settings
from worker.sharing.watch import PassProgress
from worker.simulator.deliveries import ORDER_FIELDS
from worker.simulator.faults import Fault
from worker.web.app import make_app
from worker.web.pages.access import FORWARDED, Gate
from worker.web.pages.reader import Reader
from worker.web.pages.routes import page_routes
from worker.web.webhooks import PATH as WEBHOOKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
GROUP = typer.main.get_command(cli.app)
TOP = GROUP.commands  # type: ignore[attr-defined] # the app is a group of commands
GROUPS = {"": TOP} | {f"{name} ": command.commands for name, command in TOP.items() if hasattr(command, "commands")}
COMMANDS = {
    prefix + name: command
    for prefix, commands in GROUPS.items()
    for name, command in commands.items()
    if prefix + name + " " not in GROUPS
}


def section(title: str, document: str = REFERENCE) -> str:
    return document.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The rows of the tables in a section, without their heads."""
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for number, row in enumerate(rows) if not set("".join(row)) <= set("-|") and not _is_head(rows, number)]


def _is_head(rows: list[list[str]], number: int) -> bool:
    return number + 1 < len(rows) and set("".join(rows[number + 1])) <= set("-|")


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table(section("Settings"))}
    ours = [name for name in rows if name not in VARIABLES]
    assert ours == list(Settings.model_fields)
    assert sorted(rows.keys() - ours) == ["HTTPS_PROXY", "NO_PROXY"], "the proxy's variables are curl's"
    shown = Settings().shown()
    for name, default in rows.items():
        if default not in {"required", "none"}:
            assert str(default).lower() == re.sub(r"\.0$", "", shown[name]).lower(), name


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_says_how_a_file_may_hold_it(name: str) -> None:
    assert f"`{name}_FILE`" in section("Settings")


def test_the_example_env_names_every_setting_and_is_valid() -> None:
    text = (ROOT / ".env.example").read_text()
    names = re.findall(r"^#? ?([A-Z_]+)=", text, re.MULTILINE)
    assert sorted(set(names) - {"COMPOSE_PROFILES", "POSTGRES_PASSWORD", *VARIABLES}) == sorted(Settings.model_fields)
    uncommented = re.sub(r"^# ([A-Z])", r"\1", text, flags=re.MULTILINE)
    Path(".env").write_text(uncommented)
    assert Settings().shown() == Settings(_env_file=None).shown()
    assert dotenv_values(".env")["LOG_LEVEL"] == "info"


def test_every_command_and_option_is_in_the_table() -> None:
    text = section("Commands")
    told = {
        name.strip(): options
        for row in table(text.partition("### Exit codes")[0])
        for name, options in re.findall(r"^`share-worker ((?:[a-z]+ ?)+)([^`]*)`", row[0])
    }
    assert sorted(told) == sorted(COMMANDS)
    for name, command in COMMANDS.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert set(re.findall(r"--[\w-]+", told[name])) == options - {"--help"}, name


def test_every_verdict_is_explained_in_its_order_and_words() -> None:
    rows = {row[0].strip("`"): row[1] for row in table(section("Verdicts"))}
    assert rows == {name.value: name.meaning for name in Verdict}
    assert list(rows) == [name.value for name in Verdict]


def test_every_outcome_is_explained() -> None:
    assert [row[0].strip("`") for row in table(section("Outcomes"))] == [name.value for name in Outcome]


def test_every_log_event_is_documented_and_every_documented_one_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    subjects = (
        "pass|share|cards|lines?|chats|claims|database|ledger|stale|serve|schedule|sync|webhook|heartbeat|page|notify"
    )
    logged = {name for name in re.findall(rf'"((?:{subjects})\.[a-z]+)"', sources) if not name.endswith(".html")}
    told = {name for row in table(section("Log events")) for name in re.findall(r"`([a-z]+\.[a-z]+)`", row[0])}
    assert told == logged - {"share.broke"}, "share.broke is a bug of ours, told with a traceback"


def test_every_table_and_column_is_documented() -> None:
    parts = [part.partition("\n") for part in section("Tables").split("\n### ")[1:]]
    told = {
        title.strip("`"): {name for row in table(text) for name in re.findall(r"`(\w+)`", row[0])}
        for title, _, text in parts
    }
    assert told == {name: set(held.columns.keys()) for name, held in metadata.tables.items()}


def test_every_trigger_and_status_of_a_pass_is_documented() -> None:
    rows = {row[0].strip("`"): row[1] for row in table(section("Tables").partition("### `runs`")[2])}
    assert set(re.findall(r"`(\w+)`", rows["trigger"])) == set(Trigger)
    assert set(re.findall(r"`(\w+)`", rows["status"])) == set(RunStatus)


def test_every_code_that_the_worker_reacts_to_is_in_the_table_of_answers() -> None:
    told = {int(code) for row in table(section("Linq's answers")) for code in re.findall(r"\b2\d{3}\b", row[0])}
    about_cards = {ErrorCode.CARD_EXISTS, ErrorCode.CARD_NOT_COMPLETED}
    assert told == {code for code in ErrorCode if 2000 <= code < 3000} - about_cards


def test_every_metric_is_documented() -> None:
    told = {name for row in table(section("Metrics")) for name in re.findall(r"^`(\w+)", row[0])}
    endings = {"counter": "_total"}
    families = Metrics(CollectorRegistry()).registry.collect()
    assert told == {family.name + endings.get(family.type, "") for family in families}


def test_every_count_of_a_sync_is_documented() -> None:
    rows = table(section("What it says", (ROOT / "docs" / "sync.md").read_text()))
    assert {row[0].strip("`") for row in rows} == set(counts(Synced()))


def test_every_column_of_a_file_is_documented() -> None:
    text = (ROOT / "docs" / "chats.md").read_text().partition("\n### Accepted values\n")[2].partition("\n### ")[0]
    assert {name for row in table(text) for name in re.findall(r"`(\w+)`", row[0])} == set(COLUMNS)


@dataclass(frozen=True)
class Addresses:
    """The paths that `serve` answers, as patterns: those of the page, and the others."""

    of_the_page: list[str]
    others: list[str]


@pytest.fixture
def addresses(engine: AsyncEngine, clock: HandClock) -> Addresses:
    async def ready() -> list[str]:
        return []

    reader = Reader(engine, Rules(), Schedule("@daily", UTC), clock, has_webhooks=True)
    pages = page_routes(reader, Gate("127.0.0.1", None, clock), PassProgress(worker=""), lambda: None)
    app = make_app(unready=ready, registry=CollectorRegistry(), webhooks=[Route(WEBHOOKS, ready)], pages=pages)
    of_the_page = [route.path for route in pages]
    paths = [route.path for route in app.routes if isinstance(route, Route)]
    return Addresses(of_the_page, [path for path in paths if path not in of_the_page])


@sqlite_only
def test_every_http_path_is_documented(addresses: Addresses) -> None:
    told = {path for row in table(section("HTTP paths")) for path in re.findall("`(.+?)`", row[0])}
    names = {"{chat_id:path}": "ID", "{run_id}": "ID", "{name}": "NAME"}
    paths = [*addresses.of_the_page, *addresses.others]
    assert told == {re.sub(r"{.+}", lambda found: names[found[0]], path) for path in paths}


@sqlite_only
def test_the_documented_proxies_pass_on_the_page_and_nothing_else_and_the_worker_sees_them(
    addresses: Addresses,
) -> None:
    text = section("Through a reverse proxy", (ROOT / "docs" / "page.md").read_text())
    (location,) = re.findall(r"location ~ (\S+) {", text)
    matchers = re.findall(r"@page path (.+)", text)[0].split()
    examples = {path: re.sub(r"{.+}", "an/id", path) for path in (*addresses.of_the_page, *addresses.others)}
    passed_on = set(addresses.of_the_page)
    assert {path for path, example in examples.items() if re.search(location, example)} == passed_on
    assert {path for path, at in examples.items() if any(fnmatchcase(at, one) for one in matchers)} == passed_on
    told = text.partition("one of the headers")[2].partition(".\n")[0]
    assert [name.lower() for name in re.findall(r"`([\w-]+)`", told)] == list(FORWARDED)
    assert {name.lower() for name in re.findall(r"proxy_set_header (\S+)", text)} & {*FORWARDED}


def test_every_field_of_a_fault_is_documented() -> None:
    text = (ROOT / "docs" / "simulator.md").read_text()
    told = {name for row in table(text) if len(row) == 2 for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert {name for name in Fault.__dataclass_fields__ if name != "_"} <= told


def test_every_field_of_an_order_of_events_is_documented() -> None:
    text = section("Send webhooks", (ROOT / "docs" / "simulator.md").read_text())
    told = {name for row in table(text) for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert told == set(ORDER_FIELDS)


DOCUMENTS = [str(path.relative_to(ROOT)) for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings that are the same on a code host and on the documentation site."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)).strip().lower() for title in titles]
    of_a_code_host = {word.replace(" ", "-") for word in words}
    return of_a_code_host & {re.sub(r"[-\s]+", "-", word) for word in words}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    file = ROOT / document
    text = file.read_text()
    links = re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    for target in links:
        path, _, anchor = target.partition("#")
        there = file.parent / path if path else file
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


SITE = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


def pages(nav: object) -> Iterator[str]:
    """The pages of the site's navigation, in its order."""
    match nav:
        case str():
            yield nav
        case list():
            for entry in nav:
                yield from pages(entry)
        case dict():
            for entry in nav.values():
                yield from pages(entry)


def test_the_site_has_every_page_once() -> None:
    there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(SITE["nav"])) == sorted(there)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_a_page_of_the_site_links_to_no_file_outside_of_it(document: str) -> None:
    file = ROOT / document
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", file.read_text()):
        assert (file.parent / target).resolve().is_relative_to(ROOT / "docs"), target


def test_contributing_lists_every_folder_and_top_level_module() -> None:
    text = section("How it is laid out", (ROOT / "CONTRIBUTING.md").read_text())
    listed = {name for row in table(text) for name in re.findall(r"`(\w+)`", row[0])}
    modules = {path.stem for path in (ROOT / "worker").glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in (ROOT / "worker").glob("*/__init__.py")}
    assert listed - {"worker"} == modules
