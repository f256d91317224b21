"""The settings: read once, from the environment, from files named by `NAME_FILE`, and from `.env`, in this order.

A value that cannot be right ends the command with one line that names the setting, what it holds (never a secret), and
what it may hold. Nothing else in the worker reads the environment.
"""

import difflib
import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.database import parse_url, shown
from worker.eligibility import Rules
from worker.errors import UsageError
from worker.linq import BASE_URL
from worker.pace import Limits
from worker.telemetry import LogFormat, LogLevel

SECRETS: Final = ("LINQ_API_KEY", "DATABASE_URL")
"""The settings that may also come from a file, named by `NAME_FILE`."""

OURS: Final = ("LINQ_", "SHARE_", "LOG_", "DATABASE_")


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        msg = "plain http would send the key for anyone to read"
        raise ValueError(msg)
    if parts.path.rstrip("/").endswith("/v3"):
        msg = "the worker adds /v3 itself"
        raise ValueError(msg)
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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
    key = value.get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError
    return SecretStr(key)


def _database_url(value: SecretStr) -> SecretStr:
    parse_url(value.get_secret_value())
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
    def api_key(self) -> str:
        """The key itself, for the client and for nobody else.

        Raises:
            UsageError: it is not set.
        """
        if self.LINQ_API_KEY is None:
            msg = "LINQ_API_KEY is not set; set it to your Linq API key, or LINQ_API_KEY_FILE to a file that holds it"
            raise UsageError(msg)
        return self.LINQ_API_KEY.get_secret_value()

    @property
    def secrets(self) -> list[str]:
        """What must appear in no log: the key, and the database's password."""
        password = parse_url(self.DATABASE_URL.get_secret_value()).password
        key = self.LINQ_API_KEY.get_secret_value() if self.LINQ_API_KEY else None
        return [str(secret) for secret in (key, password) if secret]

    def shown(self) -> dict[str, str]:
        """Every setting as it may be printed."""
        values = {name: str(getattr(self, name)) for name in type(self).model_fields}
        values["LINQ_API_KEY"] = "set" if self.LINQ_API_KEY else "not set"
        values["DATABASE_URL"] = shown(parse_url(self.DATABASE_URL.get_secret_value()))
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
    why = f" ({cause})" if isinstance(cause, Exception) and str(cause) and name not in SECRETS else ""
    return f"{name}{holds or ' holds something else, but'} may be {allowed}{why}"
