"""The fault matrix against the tests: every pair of place and fault has its line, and every test it names exists."""

import re
from collections import Counter

import pytest

from tests.test_docs import ROOT, section, table

MATRIX = (ROOT / "docs" / "fault-matrix.md").read_text()
PLACES = [
    *("Reading the cards", "Share request", "Commit of a claim", "Commit of a record", "Row of the pass"),
    *("Migration", "Heartbeat", "Notification", "Sync", "Webhook"),
]
FAULTS = [
    "refused",
    "reset before the request",
    "reset after the request",
    "timeout",
    "slow body",
    "4xx",
    "5xx",
    "HTML",
    "truncated JSON",
    "wrong content-length",
    "TLS failure",
    "database restart",
    "disk full",
    "read-only file",
    "locked file",
    "out of connections",
    "serialization failure",
]
TESTS = {
    name
    for file in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("place", PLACES)
def test_every_fault_at_every_place_has_one_line_with_what_is_seen(place: str) -> None:
    rows = table(section(place, MATRIX))
    assert Counter(fault for row in rows for fault in row[0].split(", ")) == Counter(FAULTS)
    assert all(len(row) == 3 and row[1] for row in rows)


@pytest.mark.parametrize("place", PLACES)
def test_every_line_names_a_test_that_exists_or_says_why_it_cannot_happen(place: str) -> None:
    for row in table(section(place, MATRIX)):
        named = re.findall(r"`(test_\w+)`", row[2])
        assert set(named) <= TESTS, row
        assert named or row[1].startswith("cannot happen"), row


def test_no_place_is_left_out() -> None:
    places = [title for title in re.findall(r"^## (.+)$", MATRIX, re.MULTILINE) if title != "Mutation check"]
    assert places == PLACES
