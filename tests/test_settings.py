"""The settings: where they come from, what each may hold, and what is said of one that is wrong."""

import re
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from worker import assembly
from worker.db import parse_url
from worker.db.faults import describe
from worker.db.url import shown
from worker.errors import UsageError
from worker.rules.eligibility import Rules
from worker.rules.hours import Hours
from worker.rules.schedule import Schedule
from worker.settings import BASE_URL, Settings, load, misspelt
from worker.sharing.limits import Limits

KEY: Final = "planted-key-123"
PASSWORD: Final = "planted-password-456"
HEARTBEAT: Final = "https://heartbeat.example/planted-path-789"
WEBHOOK: Final = "whsec_cGxhbnRlZC1zZWNyZXQtMTAx"
NOTIFY: Final = "slack://planted-TokenA/planted-TokenB/planted-TokenC?to=a,b, mailto://me:planted-pass@mail.example"
NAMES: Final = sorted(Settings.model_fields)
SECRET_NAMES: Final = [
    "LINQ_API_KEY",
    "LINQ_WEBHOOK_SECRET",
    "DATABASE_URL",
    "HEARTBEAT_URL",
    "NOTIFY_URL",
    "STATUS_PASSWORD",
]


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def complaint() -> str:
    """What loading the settings complains of."""
    with pytest.raises(UsageError) as caught:
        load()
    return str(caught.value)


# Where they come from


def test_everything_but_the_key_has_a_default() -> None:
    settings = load()
    assert settings.LINQ_API_KEY is None
    assert settings.LINQ_BASE_URL == BASE_URL == "https://api.linqapp.com/api/partner"
    assert settings.DATABASE_URL.get_secret_value() == "sqlite:///share-worker.db"
    assert assembly.rules(settings) == Rules(timezone=ZoneInfo("UTC"))
    assert assembly.limits(settings) == Limits()
    assert assembly.schedule(settings) == Schedule("0 10 * * *", ZoneInfo("UTC"))
    assert settings.HEARTBEAT_URL is None
    assert settings.SHARE_KEEP_DAYS == 0
    assert (settings.HTTP_HOST, settings.HTTP_PORT) == ("127.0.0.1", 8080)
    assert (settings.SHARE_REQUEST_TIMEOUT, settings.LOG_FORMAT, settings.LOG_LEVEL) == (30, "auto", "info")


EVERY_SETTING: Final = {
    "LINQ_API_KEY": KEY,
    "LINQ_BASE_URL": "https://linq.example/api",
    "DATABASE_URL": f"postgresql://worker:{PASSWORD}@db.example/shares",
    "DATABASE_SCHEMA": "sharing",
    "SHARE_SCHEDULE": "30 9 * * 1-5",
    "SHARE_TIMEZONE": "Asia/Tokyo",
    "SHARE_CONCURRENCY": "7",
    "SHARE_MAX_PER_SECOND": "2.5",
    "SHARE_EVERY_DAYS": "3",
    "SHARE_MIN_HOURS": "4.5",
    "SHARE_MAX_PER_CHAT": "10",
    "SHARE_ACTIVE_DAYS": "90",
    "SHARE_INCLUDE_GROUPS": "false",
    "LINQ_WEBHOOK_SECRET": WEBHOOK,
    "SHARE_HOURS": "09:00-21:30",
    "SHARE_KEEP_DAYS": "400",
    "SHARE_MAX_PER_SECOND_PER_LINE": "0.5",
    "SHARE_REQUIRE_INBOUND": "true",
    "SHARE_SKIP_LINES_AT": "AT_RISK",
    "SHARE_STOP_WHEN_RECEIVED": "true",
    "SHARE_REQUEST_TIMEOUT": "12",
    "SHARE_DRAIN_SECONDS": "40",
    "SYNC_BEFORE_PASS": "true",
    "HEARTBEAT_URL": HEARTBEAT,
    "NOTIFY_URL": NOTIFY,
    "HTTP_HOST": "::1",
    "HTTP_PORT": "9000",
    "STATUS_PASSWORD": PASSWORD,
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "debug",
}


def assert_every_setting_was_read(settings: Settings) -> None:
    assert settings.api_key == KEY
    assert settings.LINQ_BASE_URL == "https://linq.example/api"
    assert parse_url(settings.DATABASE_URL.get_secret_value()).password == PASSWORD
    assert settings.DATABASE_SCHEMA == "sharing"
    assert assembly.rules(settings) == Rules(
        timezone=ZoneInfo("Asia/Tokyo"),
        every_days=3,
        min_hours=4.5,
        max_per_chat=10,
        active_days=90,
        include_groups=False,
        hours=Hours(time(9), time(21, 30)),
        require_inbound=True,
        skip_lines_at="AT_RISK",
        stop_when_received=True,
    )
    assert assembly.limits(settings, 5) == Limits(
        concurrency=7, per_second=2.5, per_second_per_line=0.5, drain_seconds=40, at_most=5
    )
    assert assembly.schedule(settings) == Schedule("30 9 * * 1-5", ZoneInfo("Asia/Tokyo"))
    assert settings.HEARTBEAT_URL is not None
    assert settings.HEARTBEAT_URL.get_secret_value() == HEARTBEAT
    assert settings.status_password == PASSWORD
    assert settings.SHARE_KEEP_DAYS == 400
    assert settings.webhook_secrets == [WEBHOOK]
    assert settings.notify_urls == [
        "slack://planted-TokenA/planted-TokenB/planted-TokenC?to=a,b",
        "mailto://me:planted-pass@mail.example",
    ]
    assert (settings.HTTP_HOST, settings.HTTP_PORT) == ("::1", 9000)
    assert (settings.SHARE_REQUEST_TIMEOUT, settings.LOG_FORMAT, settings.LOG_LEVEL) == (12, "json", "debug")


def test_the_examples_of_these_tests_cover_every_setting() -> None:
    assert sorted(EVERY_SETTING) == NAMES


def test_every_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **EVERY_SETTING)
    assert_every_setting_was_read(load())


def test_every_setting_is_read_from_a_dotenv_file_of_the_working_directory(tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in EVERY_SETTING.items()]
    (tmp_path / ".env").write_text("# ours\nUNRELATED=1\n" + "\n".join(lines), encoding="utf-8")
    assert_every_setting_was_read(load())


def test_the_environment_goes_before_the_dotenv_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHARE_CONCURRENCY=5\nSHARE_EVERY_DAYS=5\n")
    monkeypatch.setenv("SHARE_CONCURRENCY", "6")
    settings = load()
    assert (settings.SHARE_CONCURRENCY, settings.SHARE_EVERY_DAYS) == (6, 5)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_setting_counts_as_not_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert load() == Settings.model_construct()


def test_names_are_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("share_concurrency", "5")
    assert load().SHARE_CONCURRENCY == 20


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", " \n"])
def test_a_secret_is_read_from_the_file_that_its_name_with_file_names(
    ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in SECRET_NAMES:
        (tmp_path / name).write_text(EVERY_SETTING[name] + ending, encoding="utf-8", newline="")
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    settings = load()
    assert settings.api_key == KEY
    assert settings.DATABASE_URL.get_secret_value() == EVERY_SETTING["DATABASE_URL"]
    assert settings.HEARTBEAT_URL is not None
    assert settings.HEARTBEAT_URL.get_secret_value() == HEARTBEAT


def test_a_secret_file_goes_before_the_dotenv_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LINQ_API_KEY=from-dotenv\n")
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("LINQ_API_KEY_FILE", str(tmp_path / "key"))
    assert load().api_key == KEY


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_given_twice_is_refused_rather_than_guessed_at(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(EVERY_SETTING[name])
    set_all(monkeypatch, **{name: EVERY_SETTING[name], f"{name}_FILE": str(tmp_path / "secret")})
    said = complaint()
    assert said == f"{name} and {name}_FILE are both set; set only one of them"


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("what", ["absent", "a folder", "not text"])
def test_a_secret_file_that_cannot_be_read_is_named_with_the_reason(
    what: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if what == "a folder":
        file.mkdir()
    elif what == "not text":
        file.write_bytes(KEY.encode() + b"\xff\xfe")
    monkeypatch.setenv(f"{name}_FILE", str(file))
    said = complaint()
    assert said.startswith(f"{name}_FILE is {str(file)!r}, but that file cannot be read: ")
    reason = {"absent": "No such file", "a folder": "Is a directory", "not text": "not text"}[what]
    assert reason in said
    assert KEY not in said
    assert said.isprintable()


def test_a_dotenv_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(f"LINQ_API_KEY={KEY}\xff\n".encode("latin-1"))
    said = complaint()
    assert said.startswith("the file .env cannot be read: ")
    assert KEY not in said


# The key


@pytest.mark.parametrize("blank", [None, " ", "\t\n"])
def test_a_key_that_is_not_there_is_asked_for_when_it_is_needed(
    blank: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blank is not None:
        monkeypatch.setenv("LINQ_API_KEY", blank)
    settings = load()
    with pytest.raises(UsageError, match="LINQ_API_KEY is not set") as caught:
        _ = settings.api_key
    assert "LINQ_API_KEY_FILE" in str(caught.value)
    assert settings.shown()["LINQ_API_KEY"] == "not set"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_file_may_be_named_in_the_dotenv_file_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(EVERY_SETTING[name] + "\n")
    (tmp_path / ".env").write_text(f"{name}_FILE={tmp_path / 'secret'}\n")
    assert _held(load(), name) == EVERY_SETTING[name]


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("by_file", [False, True])
def test_a_secret_of_the_environment_goes_before_a_file_that_the_dotenv_file_names(
    name: str, by_file: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("sqlite:///other.db" if name == "DATABASE_URL" else "https://other.example")
    (tmp_path / ".env").write_text(f"{name}_FILE={tmp_path / 'other'}\n")
    (tmp_path / "secret").write_text(EVERY_SETTING[name])
    monkeypatch.setenv(*((f"{name}_FILE", str(tmp_path / "secret")) if by_file else (name, EVERY_SETTING[name])))
    assert _held(load(), name) == EVERY_SETTING[name]


def test_a_secret_given_twice_in_the_dotenv_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"LINQ_API_KEY={KEY}\nLINQ_API_KEY_FILE={tmp_path / 'key'}\n")
    assert complaint() == "LINQ_API_KEY and LINQ_API_KEY_FILE are both set; set only one of them"


def _held(settings: Settings, name: str) -> str:
    secret: SecretStr = getattr(settings, name)
    return secret.get_secret_value()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["  {}\n", "{}\r\n", '"{}"', "'{}'", ' "{}" '])
def test_white_space_and_quotes_around_a_value_are_no_part_of_it(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, **EVERY_SETTING)
    monkeypatch.setenv(name, form.format(EVERY_SETTING[name]))
    assert_every_setting_was_read(load())


def test_a_schema_is_for_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_SCHEMA", "sharing")
    assert complaint() == "DATABASE_SCHEMA is 'sharing', but DATABASE_URL is a SQLite file and has no schemas"


def test_spaces_around_the_key_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_API_KEY", f"  {KEY}\n")
    assert load().api_key == KEY


@pytest.mark.parametrize("bad", [f"{KEY} more", f"{KEY}\nX-Evil: 1", f"{KEY}é", f"{KEY}\x7f", f"{KEY}\u2028x"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINQ_API_KEY", bad)
    said = complaint()
    assert re.fullmatch(r"LINQ_API_KEY must be .*printable.*", said)
    assert KEY not in said


# Wrong values: a line each that names the setting, the value, and what is allowed

WRONG: Final[Mapping[str, list[str]]] = {
    "LINQ_BASE_URL": [
        "api.linqapp.com",
        "http://api.linqapp.com/api/partner",
        "http://192.168.1.1",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "ftp://api.linqapp.com",
        "https://",
        "https:///path",
        "https://api.linqapp.com/api/partner/v3",
        "https://api.linqapp.com/api/partner/v3/",
        "https://api.linqapp.com?x=1",
        "https://api.linqapp.com#x",
        "https://someone@api.linqapp.com",
        "https://[::1",
        "https://api.linqapp.com:99999",
        "https://api.linqapp.com:port",
        "https://api linqapp.com",
        "https://api.linqapp.com\u2028.example",
    ],
    "SHARE_SCHEDULE": [
        "daily",
        "@reboot",
        "0 10 * *",
        "0 10 * * * *",
        "60 * * * *",
        "0 10 * * MONDAY",
        "0 0 30 2 *",
    ],
    "HTTP_HOST": ["example.com", "999.1.1.1", "127.0.0.1:8080", "[::1]"],
    "HTTP_PORT": ["-1", "65536", "http", "80.5"],
    "SHARE_TIMEZONE": [
        "Europe",
        "Europe/Berlinn",
        "+02:00",
        "/etc/localtime",
        "../UTC",
        "Europe/",
        "zone.tab",
        "x" * 5000,
    ],
    "SHARE_CONCURRENCY": ["0", "-1", "501", "2.5", "many", "1e2", "0x10", "99999999999999999999"],
    "SHARE_MAX_PER_SECOND": ["-1", "-0.1", "10001", "inf", "nan", "fast", "1,5"],
    "SHARE_EVERY_DAYS": ["0", "3651", "1.5", "daily"],
    "SHARE_MIN_HOURS": ["0", "0.09", "23.1", "24", "nan", "inf", "an hour"],
    "SHARE_MAX_PER_CHAT": ["-1", "100001", "1.5", "none"],
    "SHARE_ACTIVE_DAYS": ["-1", "36501", "0.5", "any"],
    "SHARE_INCLUDE_GROUPS": ["maybe", "2", "ja", "nein"],
    "SHARE_REQUIRE_INBOUND": ["perhaps"],
    "SHARE_STOP_WHEN_RECEIVED": ["perhaps"],
    "SHARE_HOURS": ["9-21", "09:00", "09:00-09:00", "25:00-26:00", "09:00-24:30", "daily", "09:00-17:00,18:00-20:00"],
    "SHARE_KEEP_DAYS": ["-1", "36501", "a year"],
    "SHARE_SKIP_LINES_AT": ["HEALTHY", "bad", "1"],
    "SHARE_MAX_PER_SECOND_PER_LINE": ["-1", "10001", "nan", "slow"],
    "SHARE_REQUEST_TIMEOUT": ["0", "0.9", "301", "nan", "inf", "30s"],
    "SHARE_DRAIN_SECONDS": ["0", "301", "nan", "-inf", "25 seconds"],
    "SYNC_BEFORE_PASS": ["maybe", "2", "always"],
    "DATABASE_SCHEMA": ["Sharing", "my schema", "1st", "pg_own", "a;b", "a" * 64],
    "LOG_FORMAT": ["xml", "JSON", "text"],
    "LOG_LEVEL": ["trace", "INFO", "warn", "20"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_gets_one_line_with_the_setting_the_value_and_what_is_allowed(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    said = complaint()
    assert said.startswith(f"{name} is {value!r}; it must be {Settings.model_fields[name].description}")
    assert said.isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_what_each_setting_may_hold_is_described(name: str) -> None:
    assert Settings.model_fields[name].description


WRONG_DATABASES: Final = {
    "another kind": f"mysql://worker:{PASSWORD}@db/shares",
    "no URL": PASSWORD,
    "a port that is none": f"postgresql://worker:{PASSWORD}@db:port/shares",
    "in memory": "sqlite://",
    "in memory by name": "sqlite:///:memory:",
}


@pytest.mark.parametrize("url", WRONG_DATABASES.values(), ids=WRONG_DATABASES)
def test_a_wrong_database_gets_one_line_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    said = complaint()
    assert said.startswith("DATABASE_URL ")
    assert "sqlite:///" in said
    assert PASSWORD not in said
    assert said.isprintable()


SPECIAL: Final = "@/?#[]%: "


@pytest.mark.parametrize("letter", SPECIAL)
def test_a_password_with_a_special_letter_in_it_is_asked_for_percent_encoded(
    letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = f"planted{letter}zz-password"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://worker:{password}@db.example/shares")
    said = complaint()
    assert said.startswith("DATABASE_URL cannot be split without doubt; percent-encode special characters")
    assert not [part for part in re.split(f"[{re.escape(SPECIAL)}]", password) if part in said]
    monkeypatch.setenv("DATABASE_URL", f"postgresql://worker:{quote(password, safe='')}@db.example/shares")
    assert parse_url(_held(load(), "DATABASE_URL")).password == password


def test_several_wrong_settings_get_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SHARE_CONCURRENCY="0", LOG_LEVEL="loud", SHARE_TIMEZONE="Mars", LINQ_API_KEY=f"{KEY} {KEY}")
    said = complaint()
    lines = sorted(line.partition(" ")[0] for line in said.splitlines())
    assert lines == ["LINQ_API_KEY", "LOG_LEVEL", "SHARE_CONCURRENCY", "SHARE_TIMEZONE"]
    assert KEY not in said


def test_a_wrong_database_does_not_hide_the_other_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SHARE_CONCURRENCY="0", DATABASE_URL=f"mysql://worker:{PASSWORD}@db/shares")
    said = complaint()
    assert sorted(line.partition(" ")[0] for line in said.splitlines()) == ["DATABASE_URL", "SHARE_CONCURRENCY"]
    assert PASSWORD not in said


def test_a_wrong_schedule_does_not_hide_the_other_wrong_settings_nor_they_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SHARE_SCHEDULE="daily", SHARE_TIMEZONE="Mars", LOG_LEVEL="loud")
    lines = sorted(line.partition(" ")[0] for line in complaint().splitlines())
    assert lines == ["LOG_LEVEL", "SHARE_SCHEDULE", "SHARE_TIMEZONE"]


@pytest.mark.parametrize(
    "url", ["ftp://x/planted-path-789", "planted-path-789", "https://", "https://[planted-path-789"]
)
def test_a_wrong_heartbeat_gets_one_line_without_its_url(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of such a URL is all that keeps strangers from calling it."""
    monkeypatch.setenv("HEARTBEAT_URL", url)
    said = complaint()
    assert said.startswith("HEARTBEAT_URL ")
    assert "http" in said
    assert "planted-path-789" not in said
    assert said.isprintable()


def test_a_wrong_value_of_the_dotenv_file_is_named_as_well(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SHARE_MIN_HOURS=48\n")
    assert complaint().startswith("SHARE_MIN_HOURS is '48'; it must be a number from 0.1 to 23")


# The base URL


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080",
        "http://127.0.0.1:8080",
        "http://127.1.2.3",
        "http://[::1]:8080",
        "https://linq.example",
        "https://linq.example:8443/a/b",
        "https://10.0.0.1",
    ],
)
def test_https_goes_anywhere_and_http_to_this_machine_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_BASE_URL", url)
    assert url == load().LINQ_BASE_URL
    monkeypatch.setenv("LINQ_BASE_URL", f"{url}/")
    assert url == load().LINQ_BASE_URL


def test_plain_http_to_another_machine_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_BASE_URL", "http://api.linqapp.com/api/partner")
    assert complaint().endswith("(plain http would send the key for anyone to read)")


def test_a_base_url_with_the_version_in_it_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINQ_BASE_URL", f"{BASE_URL}/v3")
    assert complaint().endswith("(the worker adds /v3 itself)")


# The time zone


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Europe/Berlinn", "Europe/Berlin"),
        ("europe/berlni", "Europe/Berlin"),
        ("America/NewYork", "America/New_York"),
        ("Asia/Tokio", "Asia/Tokyo"),
    ],
)
def test_a_mistyped_time_zone_gets_a_near_one_suggested(
    typed: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARE_TIMEZONE", typed)
    assert complaint().endswith(f"(did you mean {meant}?)")


def test_nothing_is_suggested_for_a_time_zone_like_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARE_TIMEZONE", "0123456789")
    assert complaint().endswith("such as Europe/Berlin")


# What is shown


def test_the_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **EVERY_SETTING)
    settings = load()
    for printed in (repr(settings), str(settings), str(settings.shown()), str(settings.model_dump())):
        assert KEY not in printed
        assert PASSWORD not in printed
        assert "planted-path-789" not in printed
        assert "planted-" not in printed
    assert settings.shown()["LINQ_API_KEY"] == "set"
    assert settings.shown()["DATABASE_URL"] == "postgresql://worker:***@db.example/shares"
    assert settings.shown()["SHARE_TIMEZONE"] == "Asia/Tokyo"
    assert sorted(settings.shown()) == NAMES


def test_the_secrets_that_logs_must_not_hold_are_the_key_the_password_and_the_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load().secrets == []
    set_all(monkeypatch, **EVERY_SETTING)
    assert {KEY, PASSWORD, HEARTBEAT} <= set(load().secrets)


def test_tokens_in_a_notify_url_are_secrets_by_themselves_but_no_host_and_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "NOTIFY_URL", f"{NOTIFY},json://127.0.0.1:8080/planted%20path,ntfys://localhost/share-worker?token=planted-1"
    )
    secrets = set(load().secrets)
    parts = {"planted-TokenA", "planted-TokenB", "planted-TokenC", "planted-pass", "planted path", "planted-1"}
    assert parts <= secrets
    assert not secrets & {"mail.example", "127.0.0.1", "localhost", "8080", "json", "me", "share-worker"}


@pytest.mark.parametrize("value", ["planted-token", "slack:planted", "https://planted one", "1:// planted"])
def test_a_notify_url_that_is_no_url_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NOTIFY_URL", value)
    assert complaint().startswith("NOTIFY_URL must be an Apprise URL such as slack://...")
    assert "planted" not in complaint()


def test_a_password_is_a_secret_as_it_is_and_as_the_url_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://worker:p%40ss%2Fw%C3%B6rd@db.example/shares")
    assert {"p@ss/wörd", "p%40ss%2Fw%C3%B6rd"} <= set(load().secrets)


def test_a_database_without_a_password_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///data/share.db")
    assert load().shown()["DATABASE_URL"] == "sqlite:///data/share.db"


# Names that are nearly right


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("SHARE_TIMEZON", "SHARE_TIMEZONE"),
        ("SHARE_TIME_ZONE", "SHARE_TIMEZONE"),
        ("LINQ_APIKEY", "LINQ_API_KEY"),
        ("LINQ_API_KEY_FIL", "LINQ_API_KEY_FILE"),
        ("DATABASE_URLS", "DATABASE_URL"),
        ("LOG_LEVELS", "LOG_LEVEL"),
        ("SHARE_MAX_PER_SECONDS", "SHARE_MAX_PER_SECOND"),
    ],
)
def test_a_misspelt_name_gets_the_right_one_suggested(typed: str, meant: str) -> None:
    assert misspelt({typed: KEY}) == [f"{typed} is not a setting and is ignored; did you mean {meant}?"]


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *(f"{name}_FILE" for name in SECRET_NAMES),
        "HTTP_PROXY",
        "SHARE_PRICE",
        "LOG_DIR",
        "DATABASE_HOST",
        "PATH",
        "XSHARE_TIMEZONE",
    ],
)
def test_a_right_name_and_somebody_elses_get_no_line(name: str) -> None:
    assert misspelt({name: "1"}) == []


# Any text at all


def loaded_from(environment: Mapping[str, str]) -> Settings | str:
    """The settings of this environment, or what is wrong with it; nothing else may come of loading them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            return load()
        except UsageError as error:
            return str(error)


_text: Final = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)
_likely: Final = st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "1e400",
        "1" * 5000,
        "true",
        "nan",
        "Infinity",
        "[]",
        "{}",
        "null",
        "https://",
        "http://[",
        "https://[]",
        "sqlite:///",
        "postgresql://",
        "postgresql://[",
        "postgresql://h:1:2/d",
        "a" * 300,
        "/",
        ".",
        "..",
        "Etc",
        "~",
        "%",
        "://",
    ]
)


@given(environment=st.dictionaries(st.sampled_from(NAMES), _text | _likely, max_size=4))
@example(environment={"LINQ_BASE_URL": "https://x:99999"})
@example(environment={"LINQ_BASE_URL": "http://[::1"})
@example(environment={"DATABASE_URL": "postgresql://[x/y"})
def test_whatever_a_setting_holds_there_are_settings_or_a_line_for_each_that_is_wrong(
    environment: dict[str, str],
) -> None:
    outcome = loaded_from(environment)
    if isinstance(outcome, str):
        lines = outcome.split("\n")
        assert 1 <= len(lines) <= len(environment)
        assert all(line.isprintable() for line in lines)
        named = [line.partition(" ")[0] for line in lines]
        assert set(named) <= set(environment)
        assert len(set(named)) == len(named)


@given(before=_text, after=_text, name=st.sampled_from(SECRET_NAMES))
@example(before="mysql://u:", after="@h/d", name="DATABASE_URL")
@example(before="", after="://", name="DATABASE_URL")
@example(before="https://[", after="", name="HEARTBEAT_URL")
def test_whatever_surrounds_a_secret_it_is_never_in_the_complaint(before: str, after: str, name: str) -> None:
    outcome = loaded_from({name: before + KEY + after, "SHARE_CONCURRENCY": "0"})
    assert isinstance(outcome, str)
    assert KEY not in outcome


_password: Final = st.text(st.sampled_from("pq7@/?#[]%:&=+ .\\\"'\u00e9") | st.characters(codec="utf-8"), max_size=12)


@given(
    password=_password, user=_password, rest=st.sampled_from(["db/shares", "db:5432/shares?sslmode=require", "/shares"])
)
@example(password="@", user="", rest="db/shares")
@example(password="/@h/", user="worker", rest="db/shares")
def test_whatever_a_password_looks_like_no_part_of_it_is_ever_shown(password: str, user: str, rest: str) -> None:
    password = f"planted{password}secret"
    url = f"postgresql://{user}:{password}@{rest}"
    try:
        parsed = parse_url(url)
    except UsageError as error:
        said = str(error)
    else:
        said = shown(parsed) + describe(OperationalError("", None, Exception(f"no password {parsed.password}")), parsed)
    assert "planted" not in said.replace("no password ***", "")
    assert "secret" not in said


@given(value=_text)
def test_every_base_url_that_is_accepted_is_one_that_the_client_can_call(value: str) -> None:
    for prefix in ("https://", "http://localhost", "https://linq.example:", ""):
        outcome = loaded_from({"LINQ_BASE_URL": prefix + value})
        if isinstance(outcome, Settings):
            httpx.Request("POST", f"{outcome.LINQ_BASE_URL}/v3/chats/chat/share_contact_card")
