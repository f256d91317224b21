"""Logs: events with fields, as JSON or for a terminal, with no secret and no whole phone number in them.

Everything goes through here, the standard-library loggers of our dependencies too. Secrets are replaced wherever they
appear, in any field or traceback: the last line of defence, not the first.
"""

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
"""An E.164 number in a text or URL; at least seven digits, so that UTC offsets do not match."""

SHORTEST_SECRET: Final = 4
"""Replacing shorter ones would garble every line and hide nothing."""


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment: a progress display replaces it for a while.

    A line that cannot be written is dropped: neither a full disk nor a closed stderr may end a pass.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Say nothing: there is no place left to say it."""


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
    redact = _redactor(secrets)
    last: list[Processor]
    if for_a_person:
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        last = [structlog.processors.format_exc_info, _without_empty, redact, renderer]
    else:
        last = [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(ensure_ascii=False)]
        shared.append(structlog.stdlib.add_logger_name)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
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
    # psycopg warns of each connection that it closes in the middle of something; the error itself is handled by us.
    logging.getLogger("psycopg").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    logging.captureWarnings(capture=True)


def mask_phone_numbers(text: str) -> str:
    """A text with the middle of its phone numbers left out."""
    return PHONE_NUMBER.sub(r"\1\2***\3", text)


def _without_empty(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value for name, value in event.items() if value is not None}


def hide(text: str, secrets: Collection[str]) -> str:
    """A text with its secrets replaced, and with the middle of its phone numbers left out."""
    known = _any_of(secrets)
    return mask_phone_numbers(known.sub("***", text) if known else text)


def _any_of(secrets: Collection[str]) -> re.Pattern[str] | None:
    longest_first = sorted((secret for secret in secrets if len(secret) >= SHORTEST_SECRET), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _redactor(secrets: Collection[str]) -> Processor:
    known = _any_of(secrets)

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
