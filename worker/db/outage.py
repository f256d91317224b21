"""An outage of the database: how long it is waited out, and what the log says of it."""

import math
from typing import Final

import structlog
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from worker.db.faults import describe, is_passing

PATIENCE_SECONDS: Final = 300.0
"""How long a pass waits for a database that cannot be reached."""

PAUSE_SECONDS: Final = 1.0
"""Between two tries."""

REPEAT_SECONDS: Final = 30.0
"""Between two log lines about the same outage."""

log = structlog.get_logger(__name__)


class Outage:
    """Decides for each failure whether to wait, and logs `database.lost` and `database.back`. Times are monotonic."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._since: float | None = None
        self._logged_at = 0.0

    def failed(
        self,
        error: SQLAlchemyError,
        now: float,
        *,
        patience: float | None = None,
        deadline: float = math.inf,
        **fields: object,
    ) -> None:
        """Return if another try makes sense after a pause; log the outage when it begins, and every half minute.

        Raises:
            SQLAlchemyError: the error itself, if it will not pass by itself, has lasted longer than `patience` seconds
                (`PATIENCE_SECONDS` if None), or `deadline` is over.
        """
        begins = self._since is None
        since = self._since = now if self._since is None else self._since
        longest = PATIENCE_SECONDS if patience is None else patience
        if not is_passing(error) or now - since >= longest or now >= deadline:
            raise error
        if begins or now - self._logged_at >= REPEAT_SECONDS:
            log.warning("database.lost", reason=describe(error, self._url), **fields)
            self._logged_at = now

    def ended(self, now: float) -> None:
        """The database answered."""
        if self._since is not None:
            log.info("database.back", seconds=round(now - self._since, 1))
            self._since = None
