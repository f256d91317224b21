"""The logs: every line complete, whoever wrote it, and no secret and no whole phone number in any."""

import asyncio
import io
import json
import logging
import os
import sys
import traceback
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import structlog
from sqlalchemy import make_url

from tests.conftest import HandClock
from tests.scene import LINE
from worker import db
from worker.linq.answers import LinqError, PerhapsDone
from worker.linq.client import Linq
from worker.logs import LogFormat, LogLevel, configure_logging, mask_phone_numbers
from worker.simulator.account import Account
from worker.simulator.chats import Chat
from worker.simulator.faults import Fault
from worker.simulator.server import serving

KEY: Final = "planted-key-123"
PASSWORD: Final = "planted-password-456"
SECRETS: Final = [KEY, PASSWORD]
MASKED: Final = "+155***01"


def log_to(form: LogFormat, level: LogLevel = "info", *, colors: bool = False) -> structlog.stdlib.BoundLogger:
    """Set logging up, and give a logger of the worker's."""
    configure_logging(form=form, level=level, colors=colors, secrets=SECRETS)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger("worker.part")
    return logger


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The JSON lines that were logged since the last look."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def warn(text: str) -> None:
    """Warn as a library does, outside of a test run that makes an error of every warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(text, UserWarning, stacklevel=2)


def shout(text: str) -> None:
    """Fail with this text in the message, in a local variable, and in the exception's cause."""
    local = text
    try:
        raise KeyError(local)
    except KeyError as error:
        msg = f"failed with {local}"
        raise ValueError(msg) from error


class Telling:
    """Something of a program's own, whose repr says too much."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Telling({self.text!r})"


class Full(io.StringIO):
    """A stderr that leads to a disk that is full, or to a pipe that nobody reads."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError(32, f"no room for {len(text)} characters")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_line_that_cannot_be_written_harms_nobody(
    form: LogFormat, closed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_to(form)
    with monkeypatch.context() as broken:
        stderr = Full()
        if closed:
            stderr.close()
        broken.setattr(sys, "stderr", stderr)
        log.error("lost")
        logging.getLogger("some.dependency").error("lost too")
    log.info("afterwards")
    assert "afterwards" in capsys.readouterr().err


# The form for machines


@pytest.mark.parametrize("form", ["auto", "json"])
def test_without_a_terminal_each_event_is_a_line_of_json(form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to(form)
    log.info("pass.started", chats=3, line=None)
    log.warning("two\nlines", note="a\nb")
    first, second = events(capsys)
    assert {name: first[name] for name in ("event", "level", "logger", "chats", "line")} == {
        "event": "pass.started",
        "level": "info",
        "logger": "worker.part",
        "chats": 3,
        "line": None,
    }
    assert (second["event"], second["level"], second["note"]) == ("two\nlines", "warning", "a\nb")


def test_logs_go_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    log_to("json").error("here")
    assert capsys.readouterr().out == ""


def test_every_event_has_a_time_in_utc_a_level_a_logger_and_a_name_whoever_logged_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = log_to("json", "debug")
    before = datetime.now(UTC)
    log.debug("ours")
    log.error("ours too")
    logging.getLogger("worker.other").info("plain %s", "logging")
    logging.getLogger("some.dependency").warning("theirs")
    logging.getLogger().error("the root's")
    warn("old ways")
    after = datetime.now(UTC)
    told = events(capsys)
    assert [(event["logger"], event["level"]) for event in told] == [
        ("worker.part", "debug"),
        ("worker.part", "error"),
        ("worker.other", "info"),
        ("some.dependency", "warning"),
        ("root", "error"),
        ("py.warnings", "warning"),
    ]
    assert [event["event"] for event in told[:5]] == ["ours", "ours too", "plain logging", "theirs", "the root's"]
    assert "old ways" in str(told[5]["event"])
    for event in told:
        time = datetime.fromisoformat(str(event["time"]))
        assert time.utcoffset() == timedelta(0)
        assert before <= time <= after


def test_what_is_bound_to_the_context_is_in_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to("json")
    with structlog.contextvars.bound_contextvars(run_id="run-1"):
        log.info("ours")
        logging.getLogger("some.dependency").warning("theirs")
    log.info("afterwards")
    assert [event.get("run_id") for event in events(capsys)] == ["run-1", "run-1", None]


async def test_the_context_of_a_task_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to("json")

    async def one(run_id: str) -> None:
        with structlog.contextvars.bound_contextvars(run_id=run_id):
            await asyncio.sleep(0)
            log.info("in %s", run_id)

    await asyncio.gather(*(one(f"run-{number}") for number in range(5)))
    assert [event["run_id"] for event in events(capsys)] == [f"run-{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["ours 10", "ours 20", "ours 30", "ours 40", "theirs 10", "theirs 20", "theirs 30", "theirs 40"]),
        ("info", ["ours 20", "ours 30", "ours 40", "theirs 30", "theirs 40"]),
        ("warning", ["ours 30", "ours 40", "theirs 30", "theirs 40"]),
        ("error", ["ours 40", "theirs 30", "theirs 40"]),
    ],
)
def test_the_level_is_for_our_events_and_dependencies_are_quiet_below_a_warning(
    level: LogLevel, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_to("json", level)
    for number in (10, 20, 30, 40):
        log.log(number, "ours %d", number)
    for number in (10, 20, 30, 40):
        logging.getLogger("some.dependency").log(number, "theirs %d", number)
    assert [event["event"] for event in events(capsys)] == shown


def test_a_traceback_is_one_field_of_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to("json")
    try:
        shout("reason")
    except ValueError:
        log.exception("broke")
    [event] = events(capsys)
    assert str(event["exception"]).startswith("Traceback (most recent call last):")
    assert str(event["exception"]).endswith("ValueError: failed with reason")


def test_values_of_any_kind_can_be_logged(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2026, 3, 10, tzinfo=UTC)
    log_to("json").info(
        "odd", when=when, path=Path("a"), some={1, 2}, data=b"x", thing=Telling("t"), deep=[{"a": (when,)}]
    )
    [event] = events(capsys)
    assert event["when"] == str(when)
    assert event["thing"] == "Telling('t')"
    assert sorted(str(number) for number in json.loads(json.dumps(event["some"]))) == ["1", "2"]


def test_letters_of_any_script_are_written_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log_to("json").info("grüße", name="José 😀")
    line = capsys.readouterr().err
    assert "grüße" in line
    assert "José 😀" in line


def test_configuring_twice_writes_each_event_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to("json")
    log_to("json").info("once")
    assert len(events(capsys)) == 1


def test_what_takes_the_place_of_stderr_for_a_while_gets_the_logs_meanwhile(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_to("json")
    stand_in = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stand_in)
        log.info("meanwhile")
    log.info("afterwards")
    assert json.loads(stand_in.getvalue())["event"] == "meanwhile"
    assert [event["event"] for event in events(capsys)] == ["afterwards"]


# The form for people


@pytest.mark.parametrize("colors", [True, False])
def test_at_a_terminal_auto_is_the_form_for_people(monkeypatch: pytest.MonkeyPatch, colors: bool) -> None:
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w", encoding="utf-8") as terminal:  # noqa: PTH123 -- of descriptors
        monkeypatch.setattr(sys, "stderr", terminal)
        log_to("auto", colors=colors).info("pass.started", chats=3)
        terminal.flush()
        shown = screen.read(10_000).decode()
    assert "pass.started" in shown
    assert ("\x1b[" in shown) == colors
    assert not shown.lstrip().startswith("{")


def test_the_form_for_people_is_a_readable_line_without_colours_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to("console")
    log.info("share.recorded", chat_id="chat-1", status=202, error=None)
    logging.getLogger("some.dependency").warning("theirs")
    first, second = capsys.readouterr().err.splitlines()
    time, _, rest = first.partition(" ")
    assert datetime.fromisoformat(time).utcoffset() == timedelta(0)
    assert rest.split() == ["[info", "]", "share.recorded", "chat_id=chat-1", "status=202"]  # what is None is left out
    assert "theirs" in second
    assert "warning" in second


def test_the_form_for_people_shows_where_something_broke(capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to("console")
    try:
        shout("reason")
    except ValueError:
        log.exception("broke")
    shown = capsys.readouterr().err
    assert "broke" in shown
    assert "test_telemetry.py" in shown
    assert "ValueError: failed with reason" in shown


# Secrets and phone numbers

FORMS: Final = pytest.mark.parametrize("form", ["json", "console"])


def assert_nothing_leaked(output: str) -> None:
    for secret in (*SECRETS, LINE, "%2B15550100001", "5550100001"):
        assert secret not in output


@FORMS
@pytest.mark.parametrize("text", [f"before {KEY} after", PASSWORD, f"Bearer {KEY}", LINE, f"from {LINE}, to {LINE}"])
def test_secrets_and_phone_numbers_are_masked_wherever_they_stand_in_an_event(
    text: str, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_to(form)
    log.info(text)
    log.info("%s", text)
    log.info("field", value=text)
    log.info("nested", value={"list": [text, (text, {"deep": text})], text: "a name"})
    log.info("sets", value={text}, frozen=frozenset([text]))
    log.info("bytes", value=text.encode())
    log.info("object", value=Telling(text))
    with structlog.contextvars.bound_contextvars(bound=text):
        log.info("context")
    logger = logging.getLogger("some.dependency")
    logger.warning(text)
    logger.warning("%s and %r", text, {"a": text})
    logger.warning("extra", extra={"more": text})
    warn(text)
    shown = capsys.readouterr().err
    assert shown.count("***") >= 13
    assert_nothing_leaked(shown)


@FORMS
@pytest.mark.parametrize("text", [KEY, PASSWORD, LINE])
def test_an_error_as_a_value_is_masked(text: str, form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to(form)
    log.warning("failed", error=ValueError(text), several=[ValueError(text)])
    log.warning("failed", error=PerhapsDone(text, status=500))
    shown = capsys.readouterr().err
    assert "failed" in shown
    assert_nothing_leaked(shown)


@FORMS
@pytest.mark.parametrize("text", [KEY, PASSWORD, LINE])
def test_a_traceback_is_masked_with_its_causes_and_shows_no_variables(
    text: str, form: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_to(form)
    try:
        shout(text)
    except ValueError as error:
        log.exception("ours")
        log.error("ours, handed over", exc_info=error)
        logging.getLogger("some.dependency").exception("theirs")
        logging.getLogger("some.dependency").error("theirs, handed over", exc_info=error)
    log.info("a stack", stack_info=True, value=text)
    shown = capsys.readouterr().err
    assert shown.count("failed with ") >= 4
    assert_nothing_leaked(shown)


@FORMS
def test_a_traceback_that_was_made_a_text_is_masked(form: LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_to(form)
    try:
        shout(KEY)
    except ValueError as error:
        log.error("broke", trace=traceback.format_exception(error))
    assert_nothing_leaked(capsys.readouterr().err)


def test_of_two_secrets_of_which_one_begins_the_other_both_are_masked_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(form="json", level="info", secrets=["secret", "secret-and-more", "a.b*c[", "", "abc"])
    structlog.get_logger("worker").info("secret-and-more, secret, a.b*c[ and axbc; abc")
    [event] = events(capsys)
    assert event["event"] == "***, ***, *** and axbc; abc"  # a secret of three letters would be found in any word


def test_without_secrets_logs_are_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(form="json", level="info")
    structlog.get_logger("worker").info("plain", line=LINE)
    [event] = events(capsys)
    assert (event["event"], event["line"]) == ("plain", MASKED)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("+15550100001", MASKED),
        ("to +15550100001, please", f"to {MASKED}, please"),
        ("/v3/chats?from=%2B15550100001&limit=100", "/v3/chats?from=%2B155***01&limit=100"),
        ("/v3/chats?from=%2b15550100001&limit=100", "/v3/chats?from=%2b155***01&limit=100"),
        ("+4915112345678", "+491***78"),
        ("+123456789012345", "+123***45"),
        ("+1234567", "+12***67"),
        ("2026-03-10T09:30:00+00:00", "2026-03-10T09:30:00+00:00"),
        ("2026-03-10T09:30:00+0530", "2026-03-10T09:30:00+0530"),
        ("1 + 1 = 2", "1 + 1 = 2"),
        ("2026-03-10 15550100001", "2026-03-10 15550100001"),
        ("", ""),
    ],
)
def test_the_middle_of_a_phone_number_is_left_out_and_nothing_else(text: str, masked: str) -> None:
    assert mask_phone_numbers(text) == masked


def test_the_time_of_an_event_is_not_taken_for_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(form="json", level="info", secrets=["2026", "T0", "0000"])
    structlog.get_logger("worker").info("now")
    [event] = events(capsys)
    assert datetime.fromisoformat(str(event["time"])).utcoffset() == timedelta(0)


# Everything at once, for real


@FORMS
async def test_a_days_work_at_the_level_debug_shows_no_secret_and_no_number(
    form: LogFormat, clock: HandClock, postgresql_with_password: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Shares, reads, failures and a migration on both databases, with every dependency as talkative as it can be."""
    log = log_to(form, "debug")
    account = Account(clock=clock.now, api_key=KEY)
    account.put_card(LINE, first_name="Acme")
    account.put_chat(Chat(id="chat", from_number=LINE, last_outbound_at=clock.now()))
    account.add_fault(Fault(path="share", after=1, drop="before"))
    async with serving(account) as base_url, Linq(KEY, base_url=base_url, timeout=5, clock=clock) as linq:
        assert await linq.share("chat") == 202
        assert [chat.line async for chat in linq.chats(LINE)] == [LINE]
        cards = await linq.list_cards()
        log.info("listed", cards=cards)
        try:
            await linq.share("chat")
        except LinqError as error:
            log.exception("failed", error=error)
    for url in (f"sqlite:///{tmp_path / 'worker.db'}", postgresql_with_password):
        async with db.opened(db.parse_url(url), create=True) as engine:
            assert await db.migrate(engine)
    wrong = postgresql_with_password.replace("://", "://nobody-")
    async with db.opened(db.parse_url(wrong.rpartition("/")[0] + "/no_such_database")) as engine:
        try:
            await db.migrate(engine)
        except Exception:
            log.exception("failed again")
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert MASKED in shown
    for talker in ("aiosqlite", "failed again"):
        assert talker in shown
    assert_nothing_leaked(shown)


@pytest.fixture
def postgresql_with_password(empty_postgresql: str) -> str:
    """A database reached with a password; whether the server asks for it does not matter here."""
    return make_url(empty_postgresql).set(password=PASSWORD).render_as_string(hide_password=False)
