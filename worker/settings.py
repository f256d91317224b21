"""The settings: read once, from the environment, from files named by `NAME_FILE`, and from `.env`, in this order.

A value that cannot be right ends the command with one line that names the setting, what it holds (never a secret), and
what it may hold. Nothing else in the worker reads the environment.
"""

import difflib
import os
import re
from collections.abc import Mapping
from datetime import UTC
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import httpx
from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import URL

from worker.clock import Clock
from worker.db import parse_url, shown
from worker.errors import UsageError
from worker.linq.client import BASE_URL, Linq
from worker.logs import LogFormat, LogLevel
from worker.proxy import VARIABLES, Proxy, choose, is_loopback, passwords
from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule
from worker.service.heartbeat import Heartbeat
from worker.sharing.limits import Limits

KEY_MISSING: Final = (
    "LINQ_API_KEY is not set; set it to your Linq API key, or LINQ_API_KEY_FILE to a file that holds it"
)

SECRETS: Final = ("LINQ_API_KEY", "DATABASE_URL", "HEARTBEAT_URL")
"""The settings that may also come from a file, named by `NAME_FILE`."""

OURS: Final = ("LINQ_", "SHARE_", "LOG_", "DATABASE_", "HEARTBEAT_", "HTTP_")


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


def _key(value: SecretStr) -> SecretStr | None:
    key = value.get_secret_value().strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError
    return SecretStr(key)


def _expression(value: str) -> str:
    return Schedule(value, UTC).expression


def _heartbeat_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError
    return value


def _host(value: str) -> str:
    return value if value == "localhost" else str(ip_address(value))


def _database_url(value: SecretStr) -> SecretStr:
    try:
        parse_url(value.get_secret_value())
    except UsageError as error:
        raise ValueError(str(error)) from None
    return value


class Settings(BaseSettings):
    """What the environment says; each description is what the setting may hold."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        case_sensitive=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    LINQ_API_KEY: Annotated[SecretStr | None, AfterValidator(lambda value: value and _key(value))] = Field(
        None, description="your Linq API key: printable characters without spaces"
    )
    LINQ_BASE_URL: Annotated[str, AfterValidator(_base_url)] = Field(
        BASE_URL, description="an https:// URL without /v3; http:// for this machine only"
    )
    DATABASE_URL: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        SecretStr("sqlite:///share-worker.db"),
        description="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    SHARE_SCHEDULE: Annotated[str, AfterValidator(_expression)] = Field(
        "0 10 * * *", description="a crontab expression: minute hour day month weekday, or a nickname such as @daily"
    )
    SHARE_TIMEZONE: Annotated[ZoneInfo, BeforeValidator(_zone)] = Field(
        ZoneInfo("UTC"), description="a time zone's IANA name, such as Europe/Berlin"
    )
    SHARE_CONCURRENCY: int = Field(20, ge=1, le=500, description="calls in flight: a whole number from 1 to 500")
    SHARE_MAX_PER_SECOND: float = Field(
        20, ge=0, le=10_000, allow_inf_nan=False, description="calls a second: a number from 0 (no limit) to 10000"
    )
    SHARE_EVERY_DAYS: int = Field(
        1, ge=1, le=3650, description="days between shares in a chat: a whole number from 1 to 3650"
    )
    SHARE_MIN_HOURS: float = Field(
        1, ge=0.1, le=23, allow_inf_nan=False, description="hours between two calls in a chat: a number from 0.1 to 23"
    )
    SHARE_MAX_PER_CHAT: int = Field(
        0, ge=0, le=100_000, description="shares in a chat, ever: a whole number from 0 (no cap) to 100000"
    )
    SHARE_ACTIVE_DAYS: int = Field(
        0, ge=0, le=36_500, description="days since the last outbound message: a whole number from 0 (any) to 36500"
    )
    SHARE_INCLUDE_GROUPS: bool = Field(True, description="true or false")
    SHARE_REQUEST_TIMEOUT: float = Field(
        30, ge=1, le=300, allow_inf_nan=False, description="seconds for one call: a number from 1 to 300"
    )
    SHARE_DRAIN_SECONDS: float = Field(
        25, ge=1, le=300, allow_inf_nan=False, description="seconds to finish when told to stop: a number from 1 to 300"
    )
    HEARTBEAT_URL: Annotated[SecretStr | None, AfterValidator(_heartbeat_url)] = Field(
        None, description="an http:// or https:// URL"
    )
    HTTP_HOST: Annotated[str, AfterValidator(_host)] = Field("127.0.0.1", description="an IP address of this machine")
    HTTP_PORT: int = Field(8080, ge=0, le=65535, description="a port: a whole number from 0 (any free one) to 65535")
    LOG_FORMAT: LogFormat = Field("auto", description=f"one of {', '.join(get_args(LogFormat))}")
    LOG_LEVEL: LogLevel = Field("info", description=f"one of {', '.join(get_args(LogLevel))}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before secret files before `.env`."""
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings

    def schedule(self) -> Schedule:
        """When `serve` makes its passes."""
        return Schedule(self.SHARE_SCHEDULE, self.SHARE_TIMEZONE)

    @property
    def rules(self) -> Rules:
        """What these settings say of who is due."""
        return Rules(
            timezone=self.SHARE_TIMEZONE,
            every_days=self.SHARE_EVERY_DAYS,
            min_hours=self.SHARE_MIN_HOURS,
            max_per_chat=self.SHARE_MAX_PER_CHAT,
            active_days=self.SHARE_ACTIVE_DAYS,
            include_groups=self.SHARE_INCLUDE_GROUPS,
        )

    def limits(self, at_most: int | None = None) -> Limits:
        """What these settings say of how hard a pass may push."""
        return Limits(
            concurrency=self.SHARE_CONCURRENCY,
            per_second=self.SHARE_MAX_PER_SECOND,
            drain_seconds=self.SHARE_DRAIN_SECONDS,
            at_most=at_most,
        )

    @property
    def database(self) -> URL:
        """Where the ledger is; it may hold a password."""
        return parse_url(self.DATABASE_URL.get_secret_value())

    def linq(self, clock: Clock) -> Linq:
        """A client for the account.

        Raises:
            UsageError: the key is not set, or the variable that names the proxy is wrong.
        """
        return Linq(
            self.api_key,
            base_url=self.LINQ_BASE_URL,
            timeout=self.SHARE_REQUEST_TIMEOUT,
            connections=self.SHARE_CONCURRENCY,
            clock=clock,
            proxy=proxy_for(self.LINQ_BASE_URL),
        )

    def heartbeat(self) -> Heartbeat:
        """The watchdog to tell, or none.

        Raises:
            UsageError: the variable that names the proxy is wrong.
        """
        if self.HEARTBEAT_URL is None:
            return Heartbeat(None)
        url = self.HEARTBEAT_URL.get_secret_value()
        return Heartbeat(url, proxy=proxy_for(url))

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
    def secrets(self) -> list[str]:
        """What must appear in no log: the key, the database's password, the heartbeat's URL, the proxies' passwords."""
        url = self.DATABASE_URL.get_secret_value()
        password = parse_url(url).password
        spelt = re.search(r"://[^:/@]*:(.+)@", url)  # as the URL writes it, percent-encoded
        held = (self.LINQ_API_KEY, self.HEARTBEAT_URL)
        found = [str(password or ""), spelt[1] if spelt else "", *(one.get_secret_value() for one in held if one)]
        found += passwords(_proxy_variables())
        return [secret for secret in found if secret]

    def shown(self) -> dict[str, str]:
        """Every setting as it may be printed."""
        values = {name: str(getattr(self, name)) for name in type(self).model_fields}
        values["LINQ_API_KEY"] = "set" if self.LINQ_API_KEY else "not set"
        values["HEARTBEAT_URL"] = "set" if self.HEARTBEAT_URL else "not set"
        values["DATABASE_URL"] = shown(self.database)
        return values


class _SecretFiles(PydanticBaseSettingsSource):
    """`NAME_FILE` names a file that holds the secret `NAME`: how Docker and Kubernetes hand over secrets."""

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002 -- pydantic's signature
        field_name: str,
    ) -> tuple[str | None, str, bool]:
        """The content of the file, without the line break at its end."""
        named = os.environ.get(f"{field_name}_FILE") if field_name in SECRETS else None
        if not named:
            return None, field_name, False
        if os.environ.get(field_name):
            msg = f"{field_name} and {field_name}_FILE are both set; set only one of them"
            raise UsageError(msg)
        try:
            return Path(named).read_text(encoding="utf-8").strip(), field_name, False
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            msg = f"{field_name}_FILE is {named!r}, but that file cannot be read: {reason}"
            raise UsageError(msg) from error

    def __call__(self) -> dict[str, str]:
        """The secrets that files hold."""
        found = {name: self.get_field_value(FieldInfo(), name)[0] for name in SECRETS}
        return {name: value for name, value in found.items() if value}


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment, or `.env`, names for a URL; None without one.

    Raises:
        UsageError: the variable that names it is wrong.
    """
    return choose(url, _proxy_variables())


def _proxy_variables() -> dict[str, str]:
    """The proxy variables as curl names them, which are no settings of ours; the environment before `.env`."""
    known = dotenv_values(".env") | os.environ
    return {name: value for name in VARIABLES if (value := known.get(name))}


def load() -> Settings:
    """Read the settings.

    Raises:
        UsageError: one is wrong; a line for each.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [_explain(details) for details in error.errors(include_url=False)]
        raise UsageError("\n".join(lines)) from None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the file .env cannot be read: {error}"
        raise UsageError(msg) from None


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like a setting of ours, but is none."""
    known = [*Settings.model_fields, *(f"{name}_FILE" for name in SECRETS)]
    lines = []
    for name in environment:
        if name.startswith(OURS) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near:
                lines.append(f"{name} is not a setting and is ignored; did you mean {near[0]}?")
    return lines


def _explain(details: ErrorDetails) -> str:
    name = str(details["loc"][0])
    allowed = Settings.model_fields[name].description
    holds = "" if name in SECRETS else f" is {details['input']!r}, but"
    cause = details.get("ctx", {}).get("error")
    if name == "DATABASE_URL" and cause is not None:
        return str(cause)
    why = f" ({cause})" if isinstance(cause, Exception) and str(cause) and name not in SECRETS else ""
    return f"{name}{holds or ' holds something else, but'} may be {allowed}{why}"
