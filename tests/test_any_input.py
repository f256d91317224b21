"""Any words on the command line, any text in any setting: an exit code and a line to act on, never a traceback."""

import importlib
import pkgutil
import signal
import sys
from collections.abc import Coroutine
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import NoReturn

import pytest
import typer.main
from hypothesis import example, given
from hypothesis import strategies as st

import worker.cli
from tests.examples import bounded
from worker import cli
from worker.settings import SECRETS, Settings

PLANTED = "planted-secret"
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined] # the app is a group of commands
NAMES = list(Settings.model_fields)
some = bounded(30)


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def share_worker(*words: str) -> Said:
    """The command line in this process; whatever is raised but an exit is a failure of the test."""
    out, err = StringIO(), StringIO()
    broken_pipe = signal.getsignal(signal.SIGPIPE)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["share-worker", *words])
        patch.setattr(sys, "stdin", StringIO())
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGPIPE, broken_pipe)  # commands that only print let it end them
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return Said(code or 0, out.getvalue(), err.getvalue())


def no_traceback(said: Said) -> None:
    assert said.code in {0, 1, 2}
    assert "Traceback" not in said.err
    assert PLANTED not in said.out + said.err
    assert said.code != 2 or said.err or "Usage: " in said.out


# Words: parsed as they are, but the work itself is not begun


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where their work would begin."""

    def finish(work: Coroutine[None, None, int]) -> NoReturn:
        work.close()
        raise typer.Exit(0)

    for module in pkgutil.iter_modules(worker.cli.__path__):
        loaded = importlib.import_module(f"worker.cli.{module.name}")
        if hasattr(loaded, "finish"):
            monkeypatch.setattr(loaded, "finish", finish)


_letters = st.characters(codec="utf-8", exclude_characters="\0")
_bytes_that_are_no_text = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)  # as Python reads them from outside
_any_text = st.text(_letters | _bytes_that_are_no_text, max_size=20)
_numbers = (
    st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["1e9", "0x10", "\uff11\uff12", "1_000", "+5", " 7"])
)
_options = st.sampled_from(
    sorted({option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts})
)
_words = st.lists(
    _options | _any_text | _numbers | st.sampled_from(["--", "-", "-h", "--help", "=", "--limit="]), max_size=5
)


@some
@given(command=st.sampled_from(sorted(COMMANDS)) | _any_text, words=_words)
@example(command="run", words=["--limit", "9" * 30])
@example(command="run", words=["--limit", "\udcff"])
@example(command="demo", words=["--folder", "\udcff"])
@example(command="resume", words=["-"])
@example(command="attempts", words=["--chat", "-"])
@example(command="cards", words=[])
def test_any_words_are_taken_or_refused(idle: None, command: str, words: list[str]) -> None:
    no_traceback(share_worker(command, *words))


# Settings: read as they are; without a key nobody is called, and the database is not opened


def with_settings(values: dict[str, str], *words: str) -> Said:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        return share_worker(*words)


@some
@given(values=st.dictionaries(st.sampled_from(sorted(set(NAMES) - {"LINQ_API_KEY"})), _any_text | _numbers, max_size=4))
@example(values={"DATABASE_URL": "sqlite:///\udcff.db"})
@example(values={"DATABASE_URL": "sqlite:///a\nb"})
@example(values={"SHARE_TIMEZONE": "\udcff"})
@example(values={"SHARE_TIMEZONE": "../../../../etc/passwd"})
@example(values={"HEARTBEAT_URL": "http://\udcff"})
@example(values={"LINQ_BASE_URL": "https://\udcff"})
def test_any_text_in_any_setting_gives_a_line_for_each_that_is_wrong(values: dict[str, str]) -> None:
    said = with_settings(values, "run")
    no_traceback(said)
    assert said.code == 2
    lines = said.err.splitlines()
    assert 1 <= len(lines) <= max(1, len(values))
    assert all(line.startswith("share-worker: ") and line.isprintable() for line in lines)


@some
@given(before=_any_text, after=_any_text, name=st.sampled_from(SECRETS), broken=st.booleans())
def test_no_complaint_shows_a_secret(before: str, after: str, name: str, broken: bool) -> None:
    values = {name: before + PLANTED + after} | ({"SHARE_CONCURRENCY": "0"} if broken else {"LINQ_BASE_URL": "x"})
    said = with_settings(values, "run")
    no_traceback(said)
    assert said.code == 2


@some
@given(
    content=st.binary(max_size=200)
    | _any_text.map(lambda text: f"LINQ_API_KEY={text}".encode(errors="surrogateescape"))
)
@example(content=b"DATABASE_URL=sqlite:///a\0b\n")
@example(content=b"SHARE_CONCURRENCY='")
def test_any_bytes_in_the_dotenv_file_are_settings_or_a_line(content: bytes) -> None:
    Path(".env").write_bytes(content + b"\nLOG_LEVEL=planted\n")
    said = share_worker("run")
    no_traceback(said)
    assert said.code == 2


@some
@given(content=st.binary(max_size=100), name=st.sampled_from(SECRETS))
@example(content=b"sqlite:///a\0b", name="DATABASE_URL")
def test_any_bytes_in_a_secret_file_are_a_secret_or_a_line(tmp_path: Path, content: bytes, name: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    said = with_settings({f"{name}_FILE": str(file), "SHARE_CONCURRENCY": "0"}, "run")
    no_traceback(said)
    assert said.code == 2


# Databases: any URL is opened or refused in one line


_url_text = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\#"), max_size=12)
_queries = st.dictionaries(
    st.sampled_from(
        [
            "host", "port", "sslmode", "options", "connect_timeout", "application_name", "client_encoding", "timeout",
            "autocommit", "row_factory", "prepare_threshold", "context", "uri", "isolation_level", "cached_statements",
            "check_same_thread", "detect_types", "factory", "password", "passfile", "service", "nonsense",
        ]
    )
    | _url_text,
    st.sampled_from(["", "1", "-1", "abc", "true", "verify-full", "127.0.0.1", "1e99"]),
    max_size=2,
)  # fmt: skip


@some
@given(
    base=st.sampled_from(["sqlite:///", "postgresql://u:planted-secret@127.0.0.1:9/"]), name=_url_text, query=_queries
)
@example(base="sqlite:///", name="x.db", query={"timeout": "abc"})
@example(base="postgresql://u:planted-secret@127.0.0.1:9/", name="x", query={"prepare_threshold": "abc"})
@example(base="postgresql://u:planted-secret@127.0.0.1:9/", name="x", query={"row_factory": "abc"})
def test_any_database_is_opened_or_refused_in_one_line(base: str, name: str, query: dict[str, str]) -> None:
    options = "&".join(f"{key}={value}" for key, value in query.items())
    said = with_settings({"DATABASE_URL": f"{base}{name}{'?' if options else ''}{options}"}, "migrate")
    no_traceback(said)
    if said.code:
        (line,) = said.err.splitlines()
        assert line.startswith("share-worker: ")
