"""The explanation of a chat, for people and for machines."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, tzinfo
from typing import Final

from worker.cli.output.attempts import answer, document, rerun
from worker.cli.output.tables import column_lines, labelled, one_line
from worker.ledger.history import Attempt
from worker.questions.explain import Explanation, Judgement
from worker.rules.eligibility import Rules, Verdict
from worker.text import both, exact, no_time, span

NEEDED: Final = {
    Verdict.PAUSED: "it is resumed",
    Verdict.MISSING: "Linq knows the chat again and missing_at is emptied",
    Verdict.NOT_IMESSAGE: "its service is iMessage",
    Verdict.NO_OUTBOUND: "an outbound message is known",
    Verdict.OPTED_OUT: "the recipient writes again and health_status says so",
    Verdict.NO_CARD: "its line has a contact card",
    Verdict.CARD_INACTIVE: "its line's contact card is active",
    Verdict.CAP_REACHED: "SHARE_MAX_PER_CHAT allows more shares",
    Verdict.DORMANT: "there is a newer outbound message",
    Verdict.GROUP_EXCLUDED: "SHARE_INCLUDE_GROUPS is true",
}
"""What must come true before a chat is due, by the rule that says no and does not end by itself."""

HOLDS: Final = {True: "yes", False: "no", None: "off"}
LONGEST_RULE: Final = max(len(rule.value) for rule in Verdict)


def explanation_lines(explained: Explanation, rules: Rules, *, wide: int | None) -> Iterator[str]:
    """All that is known of a chat, for people."""
    zone = rules.timezone
    yield f"Chat {explained.chat_id}"
    if explained.chat is None:
        yield "  Not in the table 'chats', so nobody calls it; the ledger remembers it."
    else:
        told = {**explained.chat, **{name: no_time(written) for name, written in explained.unreadable.items()}}
        yield from _fields(told, zone, wide, without="id")
        yield from _card_lines(explained, zone, wide)
    if explained.judgement is not None:
        yield from _judgement_lines(explained, explained.judgement, rules, wide)
    yield ""
    yield from _attempt_lines(explained, zone, wide)


def explanation_document(explained: Explanation, rules: Rules) -> dict[str, object]:
    """All that is known of a chat, for machines; times in UTC."""
    judgement = explained.judgement
    return {
        "chat_id": explained.chat_id,
        "now": explained.now,
        "share_day": explained.share_day,
        "timezone": str(rules.timezone),
        "chat": explained.chat,
        "unreadable": explained.unreadable,
        "card": explained.card,
        "verdict": judgement and judgement.verdict,
        "rules": judgement
        and [
            {"rule": state.rule, "holds": state.holds, "says": state.rule.meaning, "fact": state.fact}
            for state in judgement.rules
        ],
        "next_due": judgement and asdict(judgement.next_due),
        "outcomes": explained.calls.outcomes,
        "attempts": [document(attempt) for attempt in explained.attempts],
    }


def _fields(row: Mapping[str, object], zone: tzinfo, wide: int | None, *, without: str) -> Iterator[str]:
    for name, value in row.items():
        if name != without:
            yield from labelled(f"  {name:<16}  ", _shown(value, zone), wide)


def _shown(value: object, zone: tzinfo) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return both(value, zone)
        case other:
            return one_line(str(other))


def _card_lines(explained: Explanation, zone: tzinfo, wide: int | None) -> Iterator[str]:
    yield ""
    line = explained.chat["from_number"] if explained.chat else ""
    if explained.card is None:
        yield f"Card of {line}: none, as last seen"
        return
    yield f"Card of {line}, as last seen"
    yield from _fields(explained.card, zone, wide, without="phone_number")


def _judgement_lines(explained: Explanation, judgement: Judgement, rules: Rules, wide: int | None) -> Iterator[str]:
    zone = rules.timezone
    yield ""
    yield f"Verdict at {both(explained.now, zone)}"
    yield f"on share day {explained.share_day} ({zone}):"
    yield f"  {judgement.verdict.value}: {judgement.verdict.meaning}"
    yield ""
    yield from _rule_lines(judgement, wide)
    yield ""
    due = judgement.next_due
    if due.at is None:
        needed = ", and ".join(f"{NEEDED[rule]} ({rule.value})" for rule in due.unless if rule in NEEDED)
        yield from labelled("Next due   ", f"on no coming day, until {needed}", wide)
        return
    yield from labelled("Next due   ", "now" if due.at == explained.now else f"from {both(due.at, zone)}", wide)
    scheduled = f"{both(due.scheduled, zone)}, the first from then on" if due.scheduled else "none from then on"
    yield from labelled("Scheduled  ", scheduled, wide)


def _rule_lines(judgement: Judgement, wide: int | None) -> Iterator[str]:
    """Each rule in order, the first that holds marked: a table where there is room, else what it says below."""
    rows = [
        (">" if state.rule is judgement.verdict else "", state.rule.value, HOLDS[state.holds], one_line(state.fact))
        for state in judgement.rules
    ]
    said = [(*row, state.rule.meaning) for row, state in zip(rows, judgement.rules, strict=True)]
    lines = list(column_lines(("", "rule", "holds", "what it looked at", "what it says"), said))
    if wide is None or max(map(len, lines)) <= wide:
        yield from lines
        return
    for mark, rule, holds, fact in rows:
        label = f"{mark:<2}{rule:<{LONGEST_RULE}}  {holds:<3}  "
        yield from labelled(label, fact, wide)
        if holds == HOLDS[True]:
            yield from labelled(" " * len(label), Verdict(rule).meaning, wide)


def _attempt_lines(explained: Explanation, zone: tzinfo, wide: int | None) -> Iterator[str]:
    outcomes = explained.calls.outcomes
    total = sum(outcomes.values())
    if not total:
        yield "Attempts: none"
        return
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    last = f"; the last {len(explained.attempts)}" if total > len(explained.attempts) else ""
    yield f"Attempts: {told}{last}, newest first"
    for attempt in explained.attempts:
        yield from _one_attempt(attempt, zone, wide)


def _one_attempt(attempt: Attempt, zone: tzinfo, wide: int | None) -> Iterator[str]:
    took = f"took {span(attempt.finished_at - attempt.claimed_at)}" if attempt.finished_at else "not finished"
    told = [exact(attempt.claimed_at, zone), attempt.outcome, answer(attempt), took]
    yield f"  {'  '.join(part for part in told if part)}"
    yield f"    share day {attempt.share_day}, run {attempt.run_id}"
    for label, text in (("", rerun(attempt)), ("said: ", attempt.error_message), ("trace ", attempt.trace_id)):
        if text:
            yield from labelled(f"    {label}", one_line(text), wide)
