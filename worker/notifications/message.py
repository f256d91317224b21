"""The text of a notification: what is in trouble, what is well again, and where to look. No secrets, no phone numbers.

A line is named by the last four digits of its number. What Linq or the database said is quoted, in one line.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import tzinfo
from typing import Final

from worker.ledger.history import Run
from worker.logs import hide
from worker.notifications.notices import Notice
from worker.notifications.receivers import Message
from worker.outcomes import DUE_COUNTS, Tally
from worker.questions.troubles import ABOUT_PASSES, Trouble, TroubleKind
from worker.text import chat_count, minute, one_line

SHOWN: Final = 10
"""Troubles that a message describes; the others are counted."""

LONGEST_REASON: Final = 400

BARE_NUMBER: Final = re.compile(r"(?<![\w.+-])\d{10,15}(?![\w.-])")
"""A phone number without its plus, as an error message may quote one."""

HEADLINES: Final = {
    TroubleKind.PASS: "a pass was not completed",
    TroubleKind.KEY: "Linq refuses the key",
    TroubleKind.MISSED: "a scheduled pass was missed",
    TroubleKind.LINE: "a line rests",
    TroubleKind.CARD: "a line has no active contact card",
    TroubleKind.WEBHOOKS: "webhooks are silent",
}

WELL: Final = {
    TroubleKind.PASS: "a pass was completed",
    TroubleKind.KEY: "Linq accepts the key",
    TroubleKind.MISSED: "a pass was completed",
    TroubleKind.LINE: "no longer rests",
    TroubleKind.CARD: "has an active contact card",
    TroubleKind.WEBHOOKS: "an event came",
}

TEST: Final = Message(
    title="share worker: a test",
    body="This is a test of NOTIFY_URL, sent by 'share-worker check --notify'. Nothing is wrong.",
    is_bad=False,
)


def compose(
    troubles: Sequence[Trouble],
    well: Sequence[Notice],
    *,
    zone: tzinfo,
    source: str,
    completed: Run | None = None,
    secrets: Collection[str] = (),
) -> Message:
    """One message for all that is new.

    Args:
        troubles: what is newly in trouble.
        well: what is well again, as it was told.
        zone: for the times.
        source: names the worker and its database.
        completed: the last completed pass, whose counts are told with the good news.
        secrets: what must not be in the message, whatever an error quotes.
    """
    blocks = [list(_trouble(trouble, zone)) for trouble in troubles[:SHOWN]]
    blocks += [list(_well(notice, zone)) for notice in well[:SHOWN]]
    hidden = len(troubles[SHOWN:]) + len(well[SHOWN:])
    if hidden:
        blocks.append([f"And {hidden:,} more; look: share-worker status"])
    if completed is not None and completed.tally and any(_kind(notice) in ABOUT_PASSES for notice in well):
        blocks.append(
            [f"The last completed pass: {_counts(completed.tally)}.", f"Look: share-worker runs {completed.id}"]
        )
    body = "\n\n".join("\n".join(block) for block in [*blocks, [source]])
    return Message(
        title=f"share worker: {_headline(troubles, well)}", body=without_numbers(body, secrets), is_bad=bool(troubles)
    )


def without_numbers(text: str, secrets: Collection[str]) -> str:
    """A text without secrets, and with the middle of phone numbers left out."""
    return BARE_NUMBER.sub(lambda found: f"{found[0][:2]}***{found[0][-2:]}", hide(text, secrets))


def _headline(troubles: Sequence[Trouble], well: Sequence[Notice]) -> str:
    if not troubles:
        more = f", and {len(well) - 1} more" if len(well) > 1 else ""
        what = WELL[_kind(well[0])]
        return f"well again: {f'a line {what}' if ':' in well[0].cause else what}{more}"
    others = len(troubles) - 1
    return HEADLINES[troubles[0].kind] + (f", and {others} more" if others else "")


def _trouble(trouble: Trouble, zone: tzinfo) -> Iterator[str]:
    reason = one_line(trouble.reason, LONGEST_REASON)
    subject = _name(trouble.line) or HEADLINES[trouble.kind]
    yield _sentence(reason if trouble.kind is TroubleKind.PASS else f"{subject}: {reason}")
    if trouble.tally is not None:
        yield _sentence(_counts(trouble.tally))
    elif trouble.chats:
        yield _sentence(f"{chat_count(trouble.chats)} {'wait' if trouble.chats > 1 else 'waits'}")
    times = [f"since {minute(trouble.since, zone)}"] if trouble.since else []
    if trouble.next_try is not None:
        times.append(f"next try {minute(trouble.next_try, zone)}")
    elif trouble.kind in ABOUT_PASSES:
        times.append("next try with the next 'share-worker run'")
    if times:
        yield _sentence(", ".join(times))
    yield f"Look: {trouble.look}"


def _well(notice: Notice, zone: tzinfo) -> Iterator[str]:
    name = _name(notice.cause.partition(":")[2] or None)
    yield _sentence(f"well again: {f'{name} ' if name else ''}{WELL[_kind(notice)]}")
    yield _sentence(f"before, since {minute(notice.since or notice.found_at, zone)}: {notice.reason}")


def _name(line: str | None) -> str | None:
    """Names a line without its number; None if it is about no line."""
    digits = re.sub(r"\D", "", line or "")
    return None if line is None else f"the line ending in {digits[-4:]}" if len(digits) > 4 else "a line"


def _kind(notice: Notice) -> TroubleKind:
    return TroubleKind(notice.cause.partition(":")[0])


def _counts(tally: Tally) -> str:
    skipped = sum(tally["skipped"].values())
    counts = {name: tally[name] for name in DUE_COUNTS}
    parts = [f"{count:,} {name}" for name, count in counts.items() if count or name == "shared"]
    return ", ".join([*parts, f"{skipped:,} not due"] if skipped else parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")
