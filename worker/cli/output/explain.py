"""The output of `share-worker explain`: a chat's values, rule by rule."""

from collections.abc import Iterator, Mapping
from datetime import tzinfo
from typing import Final

from worker.cli.output.tables import labelled
from worker.ledger.history import Attempt
from worker.questions.explain import Explanation, Judgement
from worker.rules.eligibility import Rules, Verdict
from worker.text import both, exact, one_line, span, unparseable
from worker.wording.attempts import answer, rerun
from worker.wording.explain import fact_texts, next_due_texts, value_text

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


def _fields(row: Mapping[str, object], zone: tzinfo, width: int | None, *, without: str) -> Iterator[str]:
    for name, value in row.items():
        if name != without:
            yield from labelled(f"  {name:<17}  ", value_text(value, zone), width)


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
    for name, value in next_due_texts(judgement.next_due, rules, explained.now).items():
        yield from labelled(f"{name:<11}", value, width)


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
