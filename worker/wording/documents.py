"""How values are written in JSON documents."""

from datetime import date, datetime


def plain(value: object) -> str:
    """A value that JSON has no form for; timestamps in ISO 8601 with their offset."""
    return value.isoformat() if isinstance(value, datetime | date) else str(value)
