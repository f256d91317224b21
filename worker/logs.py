"""Logs: events with fields, as JSON or for a terminal, with no secret and no whole phone number in them.

Everything goes through here, the standard-library loggers of our dependencies too. Secrets are replaced wherever they
turn up, in any field or traceback: that is the last line of defence, not the first.
"""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Collection, Mapping
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

PHONE_NUMBER: Final = re.compile(r"(\+|%2[Bb])(\d{2,3})\d{3,10}(\d{2})(?!\d)")
"""An E.164 number as it stands in texts and URLs; seven digits or more, so that UTC offsets are left alone."""

SHORTEST_SECRET: Final = 4
"""Replacing shorter ones would garble every line and hide nothing."""


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment: a progress display stands in for it for a while."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


class _Lines:
    """Where our own events end, whole lines already: the same place, without the detour by `logging`."""

    def __init__(self, name: str = "worker") -> None:
        self.name = name

    def info(self, line: str) -> None:
        """Write one line; what cannot be written must not end a pass."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")

    debug = warning = error = critical = info


def configure_logging(*, form: LogFormat, level: LogLevel, colors: bool = False, secrets: Collection[str] = ()) -> None:
    """Send all logs to stderr, in one form: `auto` is for a person where stderr is a terminal, else JSON.

    Our own events appear from `level` on; those of dependencies from `warning` on, or all of them at `debug`.
    """
    for_a_person = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    redact = _redactor([secret for secret in secrets if len(secret) >= SHORTEST_SECRET])
    last: list[Processor]
    if for_a_person:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        last = [structlog.processors.format_exc_info, _without_empty, redact, renderer]
    else:
        last = [structlog.processors.format_exc_info, redact, _as_json]
        shared.append(structlog.stdlib.add_logger_name)
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("worker").setLevel(level.upper())
    logging.captureWarnings(capture=True)


def mask_phone_numbers(text: str) -> str:
    """A text with the middle of its phone numbers left out."""
    return PHONE_NUMBER.sub(r"\1\2***\3", text)


_encode: Final = json.JSONEncoder(ensure_ascii=False).encode
"""`json.dumps` would make an encoder anew for each line."""


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)


def _without_empty(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if value is not None}


def _redactor(secrets: Collection[str]) -> Processor:
    known = (
        re.compile("|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True)))
        if secrets
        else None
    )

    def clean(value: object) -> object:
        if isinstance(value, str):
            text = known.sub("***", value) if known else value
            return mask_phone_numbers(text) if "+" in text or "%2" in text else text
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, Mapping):
            return {clean(name): clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [clean(item) for item in value]
        return clean(repr(value) if isinstance(value, BaseException) else str(value))

    def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: value if name == "time" else clean(value) for name, value in event.items()}

    return redact
