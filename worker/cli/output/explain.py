"""The output of `share-worker explain`: a chat's values, rule by rule, for users and for machines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, tzinfo
from typing import Final

from worker.cli.output.attempts import answer, document, rerun
from worker.cli.output.tables import labelled
from worker.db.partner_values import LONGEST_ID
from worker.ledger.history import Attempt
from worker.questions.explain import AttemptHistory, Explanation, Judgement
from worker.rules.eligibility import Rules, Verdict
from worker.text import both, exact, minute, one_line, span, unparseable

NEEDED: Final = {
    Verdict.PAUSED: "it is resumed",
    Verdict.MISSING: "Linq knows the chat again ('share-worker chats restore' empties missing_at)",
    Verdict.NOT_IMESSAGE: "its service is iMessage and its line is not an RCS line",
    Verdict.NO_OUTBOUND: "an outbound message is known",
    Verdict.OPTED_OUT: "the recipient writes again, and health_status is no longer OPTED_OUT",
    Verdict.NO_CARD: "its line has a contact card",
    Verdict.CARD_INACTIVE: "its line's contact card is active",
    Verdict.LINE_RESTING: "Linq no longer flags the line, and SHARE_SKIP_LINES_AT allows its reputation",
    Verdict.CAP_REACHED: "SHARE_MAX_PER_CHAT allows more shares",
    Verdict.DORMANT: "there is a newer outbound message",
    Verdict.GROUP_EXCLUDED: "SHARE_INCLUDE_GROUPS is true",
    Verdict.NO_INBOUND: "the recipient writes, or SHARE_REQUIRE_INBOUND is false",
    Verdict.CARD_EXCHANGED: "SHARE_STOP_WHEN_RECEIVED is false",
}
"""What must become true before the chat is due, by the rule that holds and does not end as time passes."""

HOLDS: Final = {True: "yes", False: "-", None: "off"}
LONGEST_RULE: Final = max(len(rule.value) for rule in Verdict)


def explanation_lines(explained: Explanation, rules: Rules, *, width: int | None) -> Iterator[str]:
    """The explanation for users."""
    zone = rules.timezone
    yield f"Chat {explained.chat_id}"
    if explained.chat is None:
        yield "  Not in the table 'chats', so it is not shared with; the ledger has its history."
    else:
        unreadable = {name: unparseable(written) for name, written in explained.unreadable.items()}
        yield from _fields({**explained.chat, **unreadable}, zone, width, without="id")
        yield from _card_lines(explained, zone, width)
    if explained.judgement is not None:
        yield from _judgement_lines(explained, explained.judgement, rules, width)
    yield ""
    yield from _attempt_lines(explained, zone, width)


def explanation_document(explained: Explanation, rules: Rules) -> dict[str, object]:
    """The explanation for machines; timestamps in UTC."""
    judgement = explained.judgement
    facts = fact_texts(explained, rules)
    return {
        "chat_id": explained.chat_id,
        "now": explained.now,
        "share_day": explained.share_day,
        "timezone": str(rules.timezone),
        "chat": explained.chat,
        "unreadable": explained.unreadable,
        "card": explained.card,
        "line": explained.line,
        "verdict": judgement and judgement.verdict,
        "rules": judgement
        and [
            {"rule": state.rule, "holds": state.holds, "says": state.rule.meaning, "fact": facts[state.rule]}
            for state in judgement.rules
        ],
        "next_due": judgement and asdict(judgement.next_due),
        "outcomes": explained.history.outcomes,
        "attempts": [document(attempt) for attempt in explained.attempts],
    }


def fact_texts(explained: Explanation, rules: Rules) -> dict[Verdict, str]:
    """The values that each rule looked at, in words; empty for a chat that left the table."""
    chat, card = explained.chat, explained.card
    if chat is None:
        return {}

    def timestamp(name: str, if_null: str) -> str:
        if name in explained.unreadable:
            return unparseable(explained.unreadable[name])
        moment = chat[name]
        return exact(moment, rules.timezone) if isinstance(moment, datetime) else if_null

    paused = timestamp("paused_at", "paused_at is empty")
    if chat["paused_reason"] and (chat["paused_at"] or "paused_at" in explained.unreadable):
        paused = f"{paused}: {chat['paused_reason']}"
    missing = timestamp("missing_at", "missing_at is empty")
    if not 1 <= len(explained.chat_id) <= LONGEST_ID:
        missing = f"the id has {len(explained.chat_id):,} characters; it must have 1 to {LONGEST_ID}"
    outbound = timestamp("last_outbound_at", "no outbound message known")
    today = [
        f"{attempt.outcome} {exact(attempt.claimed_at, rules.timezone)}"
        for attempt in explained.attempts
        if attempt.share_day == explained.share_day
    ]
    return {
        Verdict.PAUSED: paused,
        Verdict.MISSING: missing,
        Verdict.NOT_IMESSAGE: f"service is {chat['service'] or 'not known'}{_line_type(explained.line)}",
        Verdict.NO_OUTBOUND: outbound,
        Verdict.OPTED_OUT: f"health_status is {chat['health_status'] or 'not known'}; {_opted_out(chat, timestamp)}",
        Verdict.NO_CARD: f"{chat['from_number']} has {'a card' if card else 'no card'}",
        Verdict.CARD_INACTIVE: f"the card is {'active' if card['is_active'] else 'not active'}" if card else "no card",
        Verdict.LINE_RESTING: _line_state(explained.line, rules),
        Verdict.ALREADY_TODAY: ", ".join(today) or f"no attempt on {explained.share_day}",
        Verdict.TOO_SOON: _last_attempts(explained.history, rules),
        Verdict.CAP_REACHED: f"{_shares(explained.history.shares)}; SHARE_MAX_PER_CHAT is {rules.max_per_chat}",
        Verdict.DORMANT: f"{outbound}; SHARE_ACTIVE_DAYS is {rules.active_days}",
        Verdict.GROUP_EXCLUDED: f"{'a group' if chat['is_group'] else 'not a group'}; "
        f"SHARE_INCLUDE_GROUPS is {_true_or_false(rules.include_groups)}",
        Verdict.NO_INBOUND: f"{timestamp('last_inbound_at', 'no inbound message known')}; "
        f"SHARE_REQUIRE_INBOUND is {_true_or_false(rules.require_inbound)}",
        Verdict.CARD_EXCHANGED: f"{timestamp('card_received_at', 'no card received')}; "
        f"SHARE_STOP_WHEN_RECEIVED is {_true_or_false(rules.stop_when_received)}",
    }


def _true_or_false(value: bool) -> str:
    return str(value).lower()


def _line_type(line: Mapping[str, object] | None) -> str:
    return f", the line is an {line['line_type']} line" if line and line["line_type"] else ""


def _line_state(line: Mapping[str, object] | None, rules: Rules) -> str:
    """What Linq said of the line: that it refused it, its status and its reputation."""
    settings = f"SHARE_SKIP_LINES_AT is {rules.skip_lines_at or 'none'}"
    if line is None:
        return f"nothing known of the line; {settings}"
    refused = line["refused_at"]
    said = [
        f"refused by Linq {exact(refused, rules.timezone)}" if isinstance(refused, datetime) else "",
        f"status {line['status']}" if line["status"] else "",
        f"reputation {line['reputation'] or 'not known'}",
    ]
    return "; ".join([*filter(None, said), settings])


def _opted_out(chat: Mapping[str, object], timestamp: Callable[[str, str], str]) -> str:
    since = f"opted out {timestamp('opted_out_at', '')}" if chat["opted_out_at"] else "opted_out_at is empty"
    return (
        f"{since}, wrote {timestamp('last_inbound_at', '')}"
        if chat["last_inbound_at"] and chat["opted_out_at"]
        else since
    )


def _last_attempts(history: AttemptHistory, rules: Rules) -> str:
    settings = f"SHARE_MIN_HOURS is {rules.min_hours:g}, SHARE_EVERY_DAYS is {rules.every_days}"
    if history.last_called_at is None:
        return f"never called; {settings}"
    called = f"last call {minute(history.last_called_at, rules.timezone)}"
    shared = f"last share on {history.last_shared_day}" if history.last_shared_day else "no share yet"
    blocked = history.last_blocked_at
    said = f", number blocked {minute(blocked, rules.timezone)} (asked again after a week)" if blocked else ""
    return f"{called}, {shared}{said}; {settings}"


def _shares(count: int) -> str:
    return f"{count:,} {'share' if count == 1 else 'shares'}"


def _fields(row: Mapping[str, object], zone: tzinfo, width: int | None, *, without: str) -> Iterator[str]:
    for name, value in row.items():
        if name != without:
            yield from labelled(f"  {name:<17}  ", _value_text(value, zone), width)


def _value_text(value: object, zone: tzinfo) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return both(value, zone)
        case other:
            return one_line(str(other))


def _card_lines(explained: Explanation, zone: tzinfo, width: int | None) -> Iterator[str]:
    yield ""
    line = one_line(str(explained.chat["from_number"])) if explained.chat else ""
    if explained.card is None:
        yield f"Card of {line}: none, as last seen"
        return
    yield f"Card of {line}, as last seen"
    yield from _fields(explained.card, zone, width, without="phone_number")


def _judgement_lines(explained: Explanation, judgement: Judgement, rules: Rules, width: int | None) -> Iterator[str]:
    zone = rules.timezone
    yield ""
    yield f"Verdict at {both(explained.now, zone)}"
    yield f"on share day {explained.share_day} ({zone}):"
    yield f"  {judgement.verdict.value}: {judgement.verdict.meaning}"
    yield ""
    yield from _rule_lines(judgement, fact_texts(explained, rules), width)
    yield ""
    due = judgement.next_due
    if due.at is None:
        needed = ", and ".join(f"{NEEDED[rule]} ({rule.value})" for rule in due.unless if rule in NEEDED)
        yield from labelled("Next due   ", f"not until {needed}", width)
        return
    yield from labelled("Next due   ", "now" if due.at == explained.now else f"from {both(due.at, zone)}", width)
    scheduled = f"{both(due.scheduled, zone)}, the first time from then on" if due.scheduled else "no time from then on"
    yield from labelled("Scheduled  ", scheduled, width)
    if rules.hours is not None:
        yield from labelled("Hours      ", f"{rules.hours} ({zone}), by SHARE_HOURS", width)


def _rule_lines(judgement: Judgement, facts: Mapping[Verdict, str], width: int | None) -> Iterator[str]:
    """Each rule in order, the first that holds marked, with the values that it looked at."""
    yield from labelled("", "Rules that forbid a share, in order; the first that holds is the verdict:", width)
    yield f"  {'rule':<{LONGEST_RULE}}  holds  what it looked at"
    for state in judgement.rules:
        mark = ">" if state.rule is judgement.verdict else ""
        label = f"{mark:<2}{state.rule.value:<{LONGEST_RULE}}  {HOLDS[state.holds]:<5}  "
        yield from labelled(label, one_line(facts[state.rule]), width)


def _attempt_lines(explained: Explanation, zone: tzinfo, width: int | None) -> Iterator[str]:
    outcomes = explained.history.outcomes
    total = sum(outcomes.values())
    if not total:
        yield "Attempts: none"
        return
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    last = f"; the last {len(explained.attempts)}" if total > len(explained.attempts) else ""
    yield f"Attempts: {counts}{last}, newest first"
    for attempt in explained.attempts:
        yield from _one_attempt(attempt, zone, width)


def _one_attempt(attempt: Attempt, zone: tzinfo, width: int | None) -> Iterator[str]:
    took = f"took {span(attempt.finished_at - attempt.claimed_at)}" if attempt.finished_at else "not finished"
    parts = [exact(attempt.claimed_at, zone), attempt.outcome, answer(attempt), took]
    yield f"  {'  '.join(part for part in parts if part)}"
    yield f"    share day {attempt.share_day}, run {attempt.run_id}"
    for label, text in (("", rerun(attempt)), ("said: ", attempt.error_message), ("trace ", attempt.trace_id)):
        if text:
            yield from labelled(f"    {label}", one_line(text), width)
