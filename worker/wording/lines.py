"""A line in words: why it rests."""

from datetime import tzinfo

from worker.questions.lines import RestingLine
from worker.text import minute


def resting_text(line: RestingLine, zone: tzinfo) -> str:
    """Why a line rests, and until when."""
    return line.why + (f", until {minute(line.until, zone)}" if line.until else "")
