"""The documents against the code: every setting, command, verdict, outcome and log event, by its real name."""

import re
from pathlib import Path

import pytest
import typer.main
from dotenv import dotenv_values

from worker import cli
from worker.outcomes import Outcome
from worker.proxy import VARIABLES
from worker.rules.eligibility import Verdict
from worker.settings import SECRETS, Settings
from worker.simulator.deliveries import ORDER_FIELDS
from worker.simulator.faults import Fault

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GROUP = typer.main.get_command(cli.app)
TOP = GROUP.commands  # type: ignore[attr-defined] # the app is a group of commands
GROUPS = {"": TOP} | {f"{name} ": command.commands for name, command in TOP.items() if hasattr(command, "commands")}
COMMANDS = {
    prefix + name: command
    for prefix, commands in GROUPS.items()
    for name, command in commands.items()
    if prefix + name + " " not in GROUPS
}


def section(title: str, document: str = README) -> str:
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


def test_every_command_and_option_is_in_the_readme() -> None:
    text = section("Commands")
    told = {
        name.strip(): options
        for name, options in re.findall(r"`share-worker ((?:[a-z]+ ?)+)([^`]*)`", text.partition("COMMAND")[0])
    }
    assert sorted(told) == sorted(COMMANDS)
    for name, command in COMMANDS.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert set(re.findall(r"--[\w-]+", told[name])) == options - {"--help"}, name


def test_every_verdict_is_explained_in_its_order_and_words() -> None:
    text = section("The ledger").partition("Why a chat was not called")[2]
    rows = {row[0].strip("`"): row[1] for row in table(text)}
    assert rows == {name.value: name.meaning for name in Verdict}
    assert list(rows) == [name.value for name in Verdict]


def test_every_outcome_is_explained() -> None:
    text = section("The ledger").partition("Why a chat was not called")[0]
    assert [row[0].strip("`") for row in table(text)] == [name.value for name in Outcome]


def test_every_log_event_is_documented_and_every_documented_one_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    subjects = "pass|share|cards|line|lines|chats|claims|database|ledger|stale|serve|schedule|sync|webhook|heartbeat"
    logged = set(re.findall(rf'"((?:{subjects})\.[a-z]+)"', sources))
    told = {name for row in table(section("Logs")) for name in re.findall(r"`([a-z]+\.[a-z]+)`", row[0])}
    assert told == logged - {"share.broke"}, "share.broke is a bug of ours, told with a traceback"


def test_every_field_of_a_fault_is_documented() -> None:
    text = (ROOT / "docs" / "simulator.md").read_text()
    told = {name for row in table(text) if len(row) == 2 for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert {name for name in Fault.__dataclass_fields__ if name != "_"} <= told


def test_every_field_of_an_order_of_events_is_documented() -> None:
    text = section("How to make it send webhooks", (ROOT / "docs" / "simulator.md").read_text())
    told = {name for row in table(text) for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert told == set(ORDER_FIELDS)


DOCUMENTS = [str(path.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for path in sorted(folder.glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    file = ROOT / document
    for target in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target


def test_contributing_lists_every_folder_and_top_level_module() -> None:
    text = section("How it is laid out", (ROOT / "CONTRIBUTING.md").read_text())
    listed = {name for row in table(text) for name in re.findall(r"`(\w+)`", row[0])}
    modules = {path.stem for path in (ROOT / "worker").glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in (ROOT / "worker").glob("*/__init__.py")}
    assert listed - {"worker"} == modules
