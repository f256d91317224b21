"""What every command prints with: lines, one JSON document, counts under each other."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping

from worker.cli.output.tables import unicode_is_shown
from worker.wording.documents import plain
from worker.wording.passes import Row


def print_lines(*lines: str) -> None:
    """Print lines of a result on stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout; timestamps in ISO 8601 with their offset."""
    json.dump(document, sys.stdout, default=plain, indent=2, ensure_ascii=not unicode_is_shown())
    sys.stdout.write("\n")


def count_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Rows as lines, with the counts flush right."""
    rows = list(rows)
    names = max(len(name) for name, _, _ in rows)
    counts = max(len(f"{count:,}") for _, count, _ in rows)
    for name, count, meaning_ in rows:
        yield f"  {name:<{names}}  {count:>{counts},}  {meaning_}".rstrip()
