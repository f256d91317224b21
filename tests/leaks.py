"""The secrets that the tests plant, and the watch over them: in no output, log, page, event or row of any test."""

import re
from typing import Final, NoReturn

import pytest
from structlog.testing import LogCapture
from structlog.typing import EventDict, WrappedLogger

PASSWORD: Final = "planted-password"
"""Of the PostgreSQL databases that the tests make for themselves: their server asks for none, so any will do."""

SECRETS: Final = re.compile("planted|simulated-key")
"""Every secret that a test plants has the word in it; the simulated account's key is what processes are given."""

MEANT: Final = "LINQ_API_KEY=simulated-key"
"""What `share-worker simulator` prints to be pasted: no secret of anybody's."""


def leak(*texts: str) -> str | None:
    """The first secret in one of the texts, with what is around it; None: there is none."""
    for text in texts:
        cleared = text.replace(MEANT, "")
        found = SECRETS.search(cleared)
        if found:
            return cleared[max(0, found.start() - 80) : found.end() + 80]
    return None


class WatchedLogCapture(LogCapture):
    """structlog's, which keeps what it catches for the look at the end of the test as well."""

    seen: list[EventDict] = []  # noqa: RUF012 -- one list for all, emptied before each test

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> NoReturn:
        """Keep the event, twice."""
        self.seen.append(dict(event_dict))
        super().__call__(logger, method_name, event_dict)


def judge(report: pytest.TestReport) -> None:
    """Fail a test that passed, where a secret stands in what was printed or logged meanwhile."""
    leaked = leak(*(text for _, text in report.sections))
    if report.passed and leaked is not None:
        report.outcome = "failed"
        report.longrepr = f"a secret stands in what this test printed or logged: ...{leaked}..."
