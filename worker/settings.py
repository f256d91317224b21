"""The settings: read once, from the environment and from `.env`, into frozen values; they build nothing.

The environment goes before `.env`, and in both a secret `NAME` may come from a file that `NAME_FILE` names. White space
and a pair of quotes around a value are removed. A wrong value ends the command with one line that names the setting,
what it holds (never a secret), and what it must be. Nothing else in the worker reads the environment.
"""

import base64
import difflib
import os
import re
from collections.abc import Mapping
from datetime import UTC
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal, get_args
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, available_timezones

import httpx
from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.db.url import parse_url, secrets_of, shown
from worker.errors import UsageError
from worker.logs import LogFormat, LogLevel
from worker.proxy import VARIABLES, Proxy, choose, is_loopback, passwords
from worker.rules.hours import Hours
from worker.rules.schedule import Schedule

BASE_URL: Final = "https://api.linqapp.com/api/partner"

KEY_MISSING: Final = (
    "LINQ_API_KEY is not set; set it to your Linq API key, or LINQ_API_KEY_FILE to a file that holds it"
)

SECRETS: Final = (
    "LINQ_API_KEY",
    "LINQ_WEBHOOK_SECRET",
    "DATABASE_URL",
    "HEARTBEAT_URL",
    "NOTIFY_URL",
    "STATUS_PASSWORD",
)
"""The settings that may also come from a file, named by `NAME_FILE`."""

OURS: Final = ("LINQ_", "SHARE_", "LOG_", "DATABASE_", "HEARTBEAT_", "HTTP_", "SYNC_", "STATUS_", "NOTIFY_")

DOTENV: Final = ".env"

SHORTEST_PASSWORD: Final = 8
"""Characters of STATUS_PASSWORD: a shorter one is found by trying."""

NOTIFY_URL_SHAPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!-~]+")

TOKEN: Final = re.compile(r"(?=.*[A-Z0-9%]).{8,}")
"""A part of NOTIFY_URL that is a secret by itself, such as a token in its path."""

LineReputation = Literal["CRITICAL", "AT_RISK", "none"]
"""Linq's words for lines that are not healthy, the worst first; `none` is ours."""


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError
    if not value.isascii() or not value.isprintable() or " " in value or parts.port == 0:
        raise ValueError
    try:
        httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        msg = "plain http would send the key for anyone to read"
        raise ValueError(msg)
    if parts.path.rstrip("/").endswith("/v3"):
        msg = "the worker adds /v3 itself"
        raise ValueError(msg)
    return value.rstrip("/")


def _zone(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value)
    except (OSError, ValueError, KeyError):
        known = {name.lower(): name for name in available_timezones()}
        near = difflib.get_close_matches(value.lower(), known, n=1)
        raise ValueError(f"did you mean {known[near[0]]}?" if near else "") from None


def _key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not key.isascii() or not key.isprintable() or set(key) & set(" \"'"):
        raise ValueError
    return value


def _expression(value: str) -> str:
    return Schedule(value, UTC).expression


def _heartbeat_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        url = value.get_secret_value()
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname or not url.isprintable() or " " in url:
            raise ValueError
        httpx.URL(url)
    return value


def _notify_urls(value: SecretStr | None) -> SecretStr | None:
    """Only what an Apprise URL looks like: whether it is one, Apprise tells when it is needed."""
    for url in _split_urls(value.get_secret_value()) if value else ():
        if not NOTIFY_URL_SHAPE.fullmatch(url):
            raise ValueError
    return value


def _split_urls(held: str) -> list[str]:
    """URLs with commas between them; a comma that no URL follows belongs to the URL before it."""
    return [url for url in re.split(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)", held.strip(" ,\t\r\n")) if url]


def _webhook_secrets(value: SecretStr | None) -> SecretStr | None:
    for part in value.get_secret_value().split(",") if value else ():
        prefix, _, encoded = part.strip().partition("_")
        if prefix != "whsec" or not base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True):
            raise ValueError
    return value


def _password(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value()) < SHORTEST_PASSWORD:
        raise ValueError
    return value


def _host(value: str) -> str:
    return value if value == "localhost" else str(ip_address(value))


def _reputation(value: object) -> object:
    """In any case, as the words of other settings."""
    known = {word.lower(): word for word in get_args(LineReputation)}
    return known.get(value.lower(), value) if isinstance(value, str) else value


def _hours(value: object) -> object:
    return Hours.parse(value) if isinstance(value, str) else value


def _schema(value: str | None) -> str | None:
    if value is not None and (not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", value) or value.startswith("pg_")):
        raise ValueError
    return value


def _database_url(value: SecretStr) -> SecretStr:
    try:
        parse_url(value.get_secret_value())
    except UsageError as error:
        raise ValueError(str(error)) from None
    return value


class Settings(BaseSettings):
    """What the environment says; each description is what the setting must be."""

    model_config = SettingsConfigDict(
        env_file=DOTENV,
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    LINQ_API_KEY: Annotated[SecretStr | None, AfterValidator(lambda value: value and _key(value))] = Field(
        None, description="your Linq API key: printable characters without spaces and quotes"
    )
    LINQ_BASE_URL: Annotated[str, AfterValidator(_base_url)] = Field(
        BASE_URL, description="an https:// URL without /v3; http:// for this machine only"
    )
    DATABASE_URL: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        SecretStr("sqlite:///share-worker.db"),
        description="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    DATABASE_SCHEMA: Annotated[str | None, AfterValidator(_schema)] = Field(
        None, description="the name of a PostgreSQL schema: lower-case letters, digits and _, such as share_worker"
    )
    SHARE_SCHEDULE: Annotated[str, AfterValidator(_expression)] = Field(
        "0 10 * * *", description="a crontab expression: minute hour day month weekday, or a nickname such as @daily"
    )
    SHARE_TIMEZONE: Annotated[ZoneInfo, BeforeValidator(_zone)] = Field(
        ZoneInfo("UTC"), description="a time zone's IANA name, such as Europe/Berlin"
    )
    SHARE_HOURS: Annotated[Hours | None, BeforeValidator(_hours)] = Field(
        None, description="hours of the day such as 09:00-21:00, or over midnight such as 20:00-02:00"
    )
    SHARE_CONCURRENCY: int = Field(20, ge=1, le=500, description="a whole number from 1 to 500 (requests in flight)")
    SHARE_MAX_PER_SECOND: float = Field(
        20, ge=0, le=10_000, allow_inf_nan=False, description="a number from 0 (no limit) to 10000 (requests a second)"
    )
    SHARE_EVERY_DAYS: int = Field(
        1, ge=1, le=3650, description="a whole number from 1 to 3650 (days between shares in a chat)"
    )
    SHARE_MIN_HOURS: float = Field(
        1,
        ge=0.1,
        le=23,
        allow_inf_nan=False,
        description="a number from 0.1 to 23 (hours between two requests in a chat)",
    )
    SHARE_MAX_PER_CHAT: int = Field(
        0, ge=0, le=100_000, description="a whole number from 0 (no cap) to 100000 (shares in a chat, ever)"
    )
    SHARE_ACTIVE_DAYS: int = Field(
        0, ge=0, le=36_500, description="a whole number from 0 (any) to 36500 (days since the last outbound message)"
    )
    SHARE_INCLUDE_GROUPS: bool = Field(True, description="true or false")
    SHARE_REQUIRE_INBOUND: bool = Field(False, description="true or false")
    SHARE_STOP_WHEN_RECEIVED: bool = Field(False, description="true or false")
    SHARE_SKIP_LINES_AT: Annotated[LineReputation, BeforeValidator(_reputation)] = Field(
        "CRITICAL", description=f"one of {', '.join(get_args(LineReputation))}"
    )
    SHARE_MAX_PER_SECOND_PER_LINE: float = Field(
        0, ge=0, le=10_000, allow_inf_nan=False, description="a number from 0 (no limit) to 10000 (requests a second)"
    )
    SHARE_KEEP_DAYS: int = Field(0, ge=0, le=36_500, description="a whole number from 0 (keep all) to 36500 (days)")
    SHARE_REQUEST_TIMEOUT: float = Field(
        30, ge=1, le=300, allow_inf_nan=False, description="a number from 1 to 300 (seconds for one request)"
    )
    SHARE_DRAIN_SECONDS: float = Field(
        25,
        ge=1,
        le=300,
        allow_inf_nan=False,
        description="a number from 1 to 300 (seconds to finish when told to stop)",
    )
    LINQ_WEBHOOK_SECRET: Annotated[SecretStr | None, AfterValidator(_webhook_secrets)] = Field(
        None, description="a signing secret such as whsec_..., or several, separated by commas"
    )
    SYNC_BEFORE_PASS: bool = Field(False, description="true or false")
    HEARTBEAT_URL: Annotated[SecretStr | None, AfterValidator(_heartbeat_url)] = Field(
        None, description="an http:// or https:// URL"
    )
    NOTIFY_URL: Annotated[SecretStr | None, AfterValidator(_notify_urls)] = Field(
        None, description="an Apprise URL such as slack://... or mailtos://..., or several, separated by commas"
    )
    HTTP_HOST: Annotated[str, AfterValidator(_host)] = Field("127.0.0.1", description="an IP address of this machine")
    HTTP_PORT: int = Field(8080, ge=0, le=65535, description="a port number from 0 (any free one) to 65535")
    STATUS_PASSWORD: Annotated[SecretStr | None, AfterValidator(_password)] = Field(
        None, description=f"a password of at least {SHORTEST_PASSWORD} characters"
    )
    LOG_FORMAT: LogFormat = Field("auto", description=f"one of {', '.join(get_args(LogFormat))}")
    LOG_LEVEL: LogLevel = Field("info", description=f"one of {', '.join(get_args(LogLevel))}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- pydantic's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before `.env`, each with its secret files."""
        return init_settings, _Sources(settings_cls)

    @property
    def api_key(self) -> str:
        """The key itself, for the client and for nobody else.

        Raises:
            UsageError: it is not set.
        """
        if self.LINQ_API_KEY is None:
            raise UsageError(KEY_MISSING)
        return self.LINQ_API_KEY.get_secret_value()

    @property
    def status_password(self) -> str | None:
        """The password of the page; None: the page is only there on loopback."""
        return self.STATUS_PASSWORD.get_secret_value() if self.STATUS_PASSWORD else None

    @property
    def webhook_secrets(self) -> list[str]:
        """The signing secrets of webhooks that are in force."""
        held = self.LINQ_WEBHOOK_SECRET.get_secret_value() if self.LINQ_WEBHOOK_SECRET else ""
        return [part.strip() for part in held.split(",") if part.strip()]

    @property
    def notify_urls(self) -> list[str]:
        """Who is told of troubles, as Apprise URLs."""
        return _split_urls(self.NOTIFY_URL.get_secret_value()) if self.NOTIFY_URL else []

    @property
    def secrets(self) -> list[str]:
        """What must appear in no log: keys, passwords, and URLs that hold a token."""
        held = (self.LINQ_API_KEY, self.HEARTBEAT_URL, self.STATUS_PASSWORD)
        return [
            *secrets_of(self.DATABASE_URL.get_secret_value()),
            *(secret.get_secret_value() for secret in held if secret),
            *self.webhook_secrets,
            *(part for url in self.notify_urls for part in _url_secrets(url)),
            *passwords(_proxy_variables()),
        ]

    def shown(self) -> dict[str, str]:
        """Every setting as it may be printed."""
        values = {name: str(getattr(self, name)) for name in type(self).model_fields}
        values["LINQ_API_KEY"] = "set" if self.LINQ_API_KEY else "not set"
        values["LINQ_WEBHOOK_SECRET"] = "set" if self.LINQ_WEBHOOK_SECRET else "not set"
        values["STATUS_PASSWORD"] = "set" if self.STATUS_PASSWORD else "not set"
        values["NOTIFY_URL"] = "set" if self.NOTIFY_URL else "not set"
        values["HEARTBEAT_URL"] = "set" if self.HEARTBEAT_URL else "not set"
        values["DATABASE_URL"] = shown(parse_url(self.DATABASE_URL.get_secret_value()))
        return values


def _url_secrets(url: str) -> list[str]:
    """An Apprise URL, its password, and each part that looks like a token: a plain word would garble every log."""
    address, _, query = url.partition("://")[2].partition("?")
    login, _, rest = address.rpartition("@")
    user, _, password = login.partition(":")
    path = [part for part in re.split(r"[/:]", rest) if "." not in part]
    parts = [url, password, *(part for part in (user, *path, *re.split(r"[&=]", query)) if TOKEN.fullmatch(part))]
    return [spelt for part in parts if part for spelt in {part, unquote(part)}]


class _Sources(PydanticBaseSettingsSource):
    """The environment, then `.env`; the first that has a setting, or its file, decides."""

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 -- pydantic's signature
        field_name: str,
    ) -> tuple[str | None, str, bool]:
        """The value of one setting."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, str]:
        """The values that are set."""
        sources: list[Mapping[str, str | None]] = [os.environ]
        if self.config.get("env_file"):
            sources.append(dotenv_values(DOTENV))
        values: dict[str, str] = {}
        for source in sources:
            for name in self.settings_cls.model_fields:
                if name not in values and (value := _value(source, name)):
                    values[name] = value
        return values


def _value(source: Mapping[str, str | None], name: str) -> str:
    """What a source says of a setting, itself or by a file; empty if nothing.

    Raises:
        UsageError: it says both, or the file cannot be read.
    """
    value = _bare(source.get(name))
    file = _bare(source.get(f"{name}_FILE")) if name in SECRETS else ""
    if not file:
        return value
    if value:
        msg = f"{name} and {name}_FILE are both set; set only one of them"
        raise UsageError(msg)
    try:
        return _bare(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        msg = f"{name}_FILE is {file!r}, but that file cannot be read: {reason}"
        raise UsageError(msg) from error


def _bare(value: str | None) -> str:
    """A value without the white space around it, and without one pair of quotes, which `docker --env-file` keeps."""
    text = (value or "").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment, or `.env`, names for a URL; None without one.

    Raises:
        UsageError: the variable that names it is wrong.
    """
    return choose(url, _proxy_variables())


def _proxy_variables() -> dict[str, str]:
    """The proxy variables as curl names them, which are no settings of ours; the environment before `.env`."""
    known = dotenv_values(DOTENV) | os.environ
    return {name: value for name in VARIABLES if (value := known.get(name))}


def load() -> Settings:
    """Read the settings.

    Raises:
        UsageError: one is wrong; a line for each.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        lines = [_explain(details) for details in error.errors(include_url=False)]
        raise UsageError("\n".join(lines)) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the file .env cannot be read: {error}"
        raise UsageError(msg) from None
    if settings.DATABASE_SCHEMA and parse_url(settings.DATABASE_URL.get_secret_value()).get_backend_name() == "sqlite":
        msg = f"DATABASE_SCHEMA is {settings.DATABASE_SCHEMA!r}, but DATABASE_URL is a SQLite file and has no schemas"
        raise UsageError(msg)
    return settings


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like one of our settings, but is none."""
    known = [*Settings.model_fields, *(f"{name}_FILE" for name in SECRETS)]
    lines = []
    for name in environment:
        if name.startswith(OURS) and name not in known:
            similar = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if similar:
                lines.append(f"{name} is not a setting and is ignored; did you mean {similar[0]}?")
    return lines


def _explain(details: ErrorDetails) -> str:
    """One line: the setting, what it holds unless it is a secret, and what it must be."""
    name = str(details["loc"][0])
    cause = details.get("ctx", {}).get("error")
    if name == "DATABASE_URL" and cause is not None:
        return str(cause)
    must_be = f"must be {Settings.model_fields[name].description}"
    if name in SECRETS:
        return f"{name} {must_be}"
    why = f" ({cause})" if isinstance(cause, Exception) and str(cause) else ""
    return f"{name} is {details['input']!r}; it {must_be}{why}"
