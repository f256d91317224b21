"""The output of commands that make passes: text for users, one JSON document for machines. No database, no HTTP."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime

from worker.cli.output.printing import count_lines, print_lines
from worker.cli.output.tables import column_lines
from worker.outcomes import Outcome, PassResult, RunStatus
from worker.rules.again import Again, meaning
from worker.rules.eligibility import Rules, Verdict
from worker.sharing.rerun import Choice, Plan
from worker.text import chat_count, minute, span
from worker.wording.passes import Row, tally_rows


def result_document(result: PassResult) -> dict[str, object]:
    """The result of a pass for machines."""
    return asdict(result)


def print_result(result: PassResult, rules: Rules) -> None:
    """The result of a pass for users: how it ended, and counts that add up to all chats."""
    took = span(result.finished_at - result.started_at)
    ended = {RunStatus.COMPLETED: f"completed in {took}"}.get(result.status, f"{result.status.value} after {took}")
    print_lines(f"Pass {result.run_id}, share day {result.share_day} ({rules.timezone}): {ended}")
    if result.detail:
        print_lines(f"  why: {result.detail}")
    if result.tally:
        print_lines("", *count_lines(tally_rows(result.tally)))


def print_dry_run(
    counts: Mapping[Verdict, int], due: list[str], rules: Rules, now: datetime, *, limit: int | None
) -> None:
    """What a pass would do: which chats it would share with, and why not with the others."""
    total = sum(counts.values())
    all_due = counts.get(Verdict.DUE, 0)
    due_count = all_due if limit is None else min(all_due, limit)
    print_lines(f"Dry run, share day {rules.share_day(now)} ({rules.timezone}): no share is made, nothing is written.")
    if not rules.is_open(now):
        opening = minute(rules.opening(now), rules.timezone)
        print_lines(f"It is outside of SHARE_HOURS, {rules.hours}: a pass shares with nobody before {opening}.")
    print_lines("")
    rows: list[Row] = [("due", due_count, "would be shared with")]
    if all_due > due_count:
        rows.append(("left", all_due - due_count, "due, but beyond --limit"))
    rows += [(name.value, count, name.meaning) for name, count in counts.items() if name is not Verdict.DUE]
    print_lines(*count_lines([*rows, ("chats", total, "")]))
    if due:
        print_lines("", "Would be shared with:", *(f"  {chat_id}" for chat_id in due))
        if due_count > len(due):
            print_lines(f"  and {due_count - len(due):,} more (--json lists them all, --limit N the first N)")


def plan_lines(plan: Plan, rules: Rules) -> Iterator[str]:
    """What a rerun would do, for users: the chats that are listed, then counts of all selected chats by ruling."""
    yield f"Rerun, share day {plan.share_day} ({rules.timezone})"
    if not plan.counts:
        yield "  No attempt of today matches."
        return
    if plan.choices:
        yield ""
        rows = [(choice.chat_id, _last(choice), choice.ruling) for choice in plan.choices]
        yield from (f"  {line}" for line in column_lines(("chat", "last attempt today", "now"), rows))
        if hidden := plan.counts.total() - len(plan.choices):
            yield f"  and {hidden:,} more (--dry-run --json lists them all)"
    yield ""
    yield from count_lines(plan_rows(plan))
    if earlier := earlier_text(plan):
        yield from ("", f"  {earlier}")


def earlier_text(plan: Plan) -> str:
    """How many of the chats were shared with today already, or perhaps were; empty if none was."""
    allowed, shared, perhaps = (
        plan.counts[Again.ALLOWED],
        plan.earlier[Outcome.SHARED],
        plan.earlier[Outcome.UNKNOWN],
    )
    parts = [f"{shared:,} were shared with today already"] if shared else []
    parts += [f"{perhaps:,} perhaps were"] if perhaps else []
    return f"Of these {chat_count(allowed)}, {' and '.join(parts)}: they may get the card twice." if parts else ""


def plan_rows(plan: Plan) -> list[Row]:
    """A rerun's counts as rows that add up to the selected chats."""
    allowed = plan.counts[Again.ALLOWED]
    rows: list[Row] = [(Again.ALLOWED.value, allowed, "would be shared with again")]
    rows += [(name, count, meaning(name)) for name, count in plan.counts.most_common() if name != Again.ALLOWED]
    return [*rows, ("chats", plan.counts.total(), "")]


def plan_document(plan: Plan) -> dict[str, object]:
    """What a rerun would do, for machines."""
    return {
        "share_day": plan.share_day,
        "counts": dict(plan.counts),
        "shared_earlier": plan.earlier[Outcome.SHARED],
        "perhaps_shared_earlier": plan.earlier[Outcome.UNKNOWN],
        "chats": [asdict(choice) for choice in plan.choices],
    }


def _last(choice: Choice) -> str:
    return " ".join(str(part) for part in (choice.outcome or "none", choice.error_code) if part is not None)
