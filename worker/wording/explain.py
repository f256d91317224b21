"""What `explain` says in words: the values that each rule looked at, and what must become true first."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, tzinfo
from typing import Final

from worker.db.partner_values import LONGEST_ID
from worker.questions.explain import AttemptHistory, Explanation, NextDue
from worker.rules.eligibility import Rules, Verdict
from worker.text import both, exact, minute, one_line, unparseable
from worker.wording.attempts import document

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


def next_due_texts(due: NextDue, rules: Rules, now: datetime) -> dict[str, str]:
    """When the chat is due next, or what must become true first."""
    zone = rules.timezone
    if due.at is None:
        needed = ", and ".join(f"{NEEDED[rule]} ({rule.value})" for rule in due.unless if rule in NEEDED)
        return {"Next due": f"not until {needed}"}
    scheduled = f"{both(due.scheduled, zone)}, the first time from then on" if due.scheduled else "no time from then on"
    hours = {} if rules.hours is None else {"Hours": f"{rules.hours} ({zone}), by SHARE_HOURS"}
    return {"Next due": "now" if due.at == now else f"from {both(due.at, zone)}", "Scheduled": scheduled} | hours


def value_text(value: object, zone: tzinfo) -> str:
    """A column's value; timestamps in a zone and in UTC."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return both(value, zone)
        case other:
            return one_line(str(other))


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
        return f"no request yet; {settings}"
    asked = f"last request {minute(history.last_called_at, rules.timezone)}"
    shared = f"last share on {history.last_shared_day}" if history.last_shared_day else "no share yet"
    blocked = history.last_blocked_at
    said = f", number blocked {minute(blocked, rules.timezone)} (asked again after a week)" if blocked else ""
    return f"{asked}, {shared}{said}; {settings}"


def _shares(count: int) -> str:
    return f"{count:,} {'share' if count == 1 else 'shares'}"
