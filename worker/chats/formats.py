"""The two forms of a file of chats, and which one a file has; standard library only."""

from enum import StrEnum
from pathlib import PurePath
from typing import Final


class FileFormat(StrEnum):
    """The form of a file of chats."""

    CSV = "csv"
    JSONL = "jsonl"


_BY_SUFFIX: Final = {".csv": FileFormat.CSV, ".jsonl": FileFormat.JSONL, ".ndjson": FileFormat.JSONL}


def format_of_name(name: str) -> FileFormat | None:
    """The form that a file's name says: `.csv`, `.jsonl` or `.ndjson`; None for any other name."""
    return _BY_SUFFIX.get(PurePath(name).suffix.lower())
