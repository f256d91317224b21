"""The output of `share-worker check`: one line for each finding, with what to do."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final, Literal

from worker.account import Card
from worker.db.partner_values import LONGEST_ID
from worker.notifications.receivers import Receiver
from worker.proxy import Proxy
from worker.questions.check import Fault, FaultKind, LineUse, LookedUp, WrongNumber
from worker.questions.lines import RestingLine
from worker.questions.privileges import MissingGrant, Privileges
from worker.rules.eligibility import Rules, Verdict
from worker.text import chat_count, minute, one_line
from worker.wording.lines import resting_text

FindingState = Literal["ok", "note", "FAIL"]

LONGEST_EXAMPLE: Final = 40

NUMBERS_SHOWN: Final = 20
"""Wrong numbers, and lines without a card, that get a line of their own; the others are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the output."""

    state: FindingState
    about: str
    found: str
    """What was found, and what to do."""


def finding_line(finding: Finding) -> str:
    """A finding for users."""
    return f"{finding.state:<4}  {finding.about:<8}  {finding.found}"


def key_finding(base_url: str, proxy: Proxy | None, refusal: object | None) -> Finding:
    """Whether Linq accepts the key; `refusal` is the error with which it did not list the cards."""
    through = f" through the proxy {proxy}" if proxy else ""
    if refusal is None:
        return Finding(state="ok", about="key", found=f"accepted by {base_url}{through}")
    return Finding(state="FAIL", about="key", found=f"{base_url} did not list the cards{through}: {refusal}")


def line_findings(lines: Sequence[LineUse]) -> Iterator[Finding]:
    """Each card, and each line that has chats but no card."""
    without = [line for line in lines if line.card is None]
    for line in lines:
        if line.card is not None:
            yield _card_finding(line, line.card)
    for line in without[:NUMBERS_SHOWN]:
        found = f"{line.phone_number}: has no contact card, so no share for its {chat_count(line.chats)}"
        yield Finding(state="FAIL", about="card", found=found)
    if hidden := without[NUMBERS_SHOWN:]:
        count = chat_count(sum(line.chats for line in hidden))
        found = f"{len(hidden):,} more lines have no contact card, so no share for their {count}"
        yield Finding(state="FAIL", about="card", found=found)


def number_findings(wrong: Sequence[WrongNumber], schema: str | None = None) -> Iterator[Finding]:
    """Each value of `from_number` that is not E.164, with the number that was probably meant.

    `schema` is the PostgreSQL schema of the table `chats`, for the SQL; None: where the search path points.
    """
    for number in wrong[:NUMBERS_SHOWN]:
        yield Finding(state="FAIL", about="chats", found=wrong_number_text(number, schema))
    if hidden := wrong[NUMBERS_SHOWN:]:
        count = chat_count(sum(number.chats for number in hidden))
        found = f"from_number has {len(hidden):,} more values that are not E.164, in {count}"
        yield Finding(state="FAIL", about="chats", found=found)


def wrong_number_text(number: WrongNumber, schema: str | None = None) -> str:
    """What is wrong with a value of `from_number`, and what to do."""
    found = f"from_number is {_example(number.written)!r} in {chat_count(number.chats)}"
    if number.meant is None:
        return f"{found}; it must be E.164, such as +14155550100"
    return f"{found}; {_meant(number, number.meant, schema)}"


def due_finding(counts: Mapping[Verdict, int]) -> Finding:
    """How many chats are due, and how many are not by which verdict."""
    total = sum(counts.values())
    if not total:
        return Finding(
            state="note", about="chats", found="the table 'chats' is empty; 'share-worker chats sync' fills it"
        )
    due = f"{counts.get(Verdict.DUE, 0):,} of {total:,} are due now"
    others = ", ".join(f"{count:,} {name.value}" for name, count in counts.items() if name is not Verdict.DUE)
    return Finding(state="ok", about="chats", found=f"{due}; {others}" if others else due)


def looked_up_findings(looked_up: LookedUp) -> Iterator[Finding]:
    """Whether Linq has the chats that are due, and sends for them from the line that the table names."""
    if not looked_up.asked:
        return
    number, unknown = looked_up.asked, looked_up.unknown
    if not unknown:
        asked = "the due chat that was looked up" if number == 1 else f"the {number} due chats that were looked up"
        yield Finding(state="ok", about="chats", found=f"Linq has {asked}")
    else:
        found = f"Linq does not have {len(unknown)} of the {number} due chats that were looked up, such as {unknown[0]}"
        if 2 * len(unknown) > number:
            found = f"{found}: is LINQ_API_KEY of the account that has these chats?"
            yield Finding(state="FAIL", about="chats", found=found)
        else:
            yield Finding(state="note", about="chats", found=f"{found}; a pass marks such chats as missing")
    for chat_id, ours, theirs in looked_up.elsewhere:
        found = f"chat {chat_id} has from_number {ours}, but Linq sends for it from {theirs}; correct the table"
        yield Finding(state="FAIL", about="chats", found=found)


def hours_findings(rules: Rules, following: datetime | None, now: datetime) -> Iterator[Finding]:
    """What SHARE_HOURS mean for a pass now and for the next scheduled one; `following` is when that one shares."""
    if rules.hours is None:
        return
    hours = f"SHARE_HOURS {rules.hours} ({rules.timezone})"
    opening = rules.opening(now)
    state = "now" if opening == now else f"not now; they begin {minute(opening, rules.timezone)}"
    if following is None:
        found = f"no time of SHARE_SCHEDULE leads to a pass in {hours}: no chat is ever shared with"
        yield Finding(state="FAIL", about="hours", found=found)
        return
    found = f"{hours}: {state}. The next scheduled pass shares {minute(following, rules.timezone)}"
    yield Finding(state="ok", about="hours", found=found)


def resting_findings(resting: Sequence[RestingLine], zone: tzinfo) -> Iterator[Finding]:
    """Each line that rests."""
    for line in resting:
        found = f"{line.phone_number} rests, with its {chat_count(line.chats)}: {resting_text(line, zone)}"
        yield Finding(state="note", about="line", found=found)


def unfilled_findings(unfilled: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Each setting that looks at a column which no chat fills."""
    for setting, column in unfilled:
        consequence = "so no chat is due" if column == "last_inbound_at" else "so the setting stops nothing"
        found = f"{setting} is true, but {column} is empty in every chat, {consequence}; fill it, or turn it off"
        yield Finding(state="FAIL", about="chats", found=found)


def fault_findings(faults: Sequence[Fault], schema: str | None = None) -> Iterator[Finding]:
    """The faults of the table `chats` and of its rows."""
    for fault in faults:
        yield Finding(state="FAIL", about="chats", found=_fault_text(fault, schema))


def privilege_findings(privileges: Privileges) -> Iterator[Finding]:
    """What the database's role may not do, with the SQL that an owner of the tables can run."""
    role = privileges.role
    if privileges.unusable_schema is not None:
        schema = privileges.unusable_schema
        found = f"{role} may not use the schema {schema}: GRANT USAGE ON SCHEMA {schema} TO {role}"
        yield Finding(state="FAIL", about="grants", found=found)
    if privileges.is_standby:
        found = "the server is a standby and may only be read; a pass needs the primary"
        yield Finding(state="FAIL", about="grants", found=found)
    elif privileges.is_read_only:
        setting = f"ALTER ROLE {role} SET default_transaction_read_only = off"
        found = f"{role} may only read, since its transactions are read-only; for a role that makes passes: {setting}"
        yield Finding(state="FAIL", about="grants", found=found)
    if privileges.may_look and not privileges.may_write:
        grants = "; ".join(_grant(grant, role) for grant in privileges.for_a_pass)
        found = f"{role} may only read: it can look, but a pass fails. For a role that makes passes: {grants}"
        yield Finding(state="FAIL", about="grants", found=found)
        return
    for grant in privileges.for_a_pass:
        found = f"{role} lacks {_listed(grant)} on {grant.table}, so a pass fails: {_grant(grant, role)}"
        yield Finding(state="FAIL", about="grants", found=found)
    besides = [(grant, "'prune' and SHARE_KEEP_DAYS need") for grant in privileges.for_prune]
    besides += [(grant, "webhooks and commands that add chats need") for grant in privileges.for_webhooks]
    besides += [(grant, "notifications (NOTIFY_URL) need") for grant in privileges.for_notifications]
    for grant, needed_by in besides:
        found = f"{role} lacks {_listed(grant)} on {grant.table}, which only {needed_by}: {_grant(grant, role)}"
        yield Finding(state="note", about="grants", found=found)


def receiver_findings(receivers: Sequence[Receiver], refusals: Sequence[str | None] | None) -> Iterator[Finding]:
    """Who is told of troubles; or, after a test, whether each accepted it: `refusals` says why not."""
    if refusals is None:
        names = ", ".join(receiver.name for receiver in receivers)
        yield Finding(state="ok", about="notify", found=f"NOTIFY_URL names {names}; --notify sends a test")
        return
    for receiver, refusal in zip(receivers, refusals, strict=True):
        if refusal is None:
            yield Finding(state="ok", about="notify", found=f"{receiver.name}: accepted the test message")
        else:
            yield Finding(state="FAIL", about="notify", found=f"{receiver.name}: did not accept the test: {refusal}")


def _listed(grant: MissingGrant) -> str:
    return ", ".join(grant.privileges)


def _grant(grant: MissingGrant, role: str) -> str:
    return f"GRANT {_listed(grant)} ON {grant.schema}.{grant.table} TO {role}"


def _card_finding(line: LineUse, card: Card) -> Finding:
    name = one_line(" ".join(part for part in (card.first_name, card.last_name) if part)) or "no name"
    about = f"{card.phone_number} ({name})"
    if card.is_active:
        return Finding(state="ok", about="card", found=f"{about}: active, {chat_count(line.chats)}")
    if line.chats:
        found = f"{about}: not active, so no share for its {chat_count(line.chats)}"
        return Finding(state="FAIL", about="card", found=found)
    return Finding(state="note", about="card", found=f"{about}: not active; no chat depends on it")


def _meant(number: WrongNumber, meant: str, schema: str | None) -> str:
    card = number.meant_card
    has = "" if card is None else f", which has {'an active card' if card.is_active else 'a card that is not active'}"
    question = f"did you mean {meant}{has}?"
    if not number.written.isprintable() or len(number.written) > LONGEST_EXAMPLE:
        return question
    written = number.written.replace("'", "''")
    return f"{question} UPDATE {_table(schema)} SET from_number = '{meant}' WHERE from_number = '{written}'"  # noqa: S608 -- for the admin to run


def _fault_text(fault: Fault, schema: str | None) -> str:
    have = f"{fault.count:,} {'row has' if fault.count == 1 else 'rows have'}"
    ids = "1 id is" if fault.count == 1 else f"{fault.count:,} ids are"
    examples = " and ".join(repr(_example(text)) for text in fault.examples)
    texts = {
        FaultKind.MISSING_COLUMNS: f"the table 'chats' must also have: {', '.join(fault.examples)}",
        FaultKind.NO_KEY: (
            "the table 'chats' has no primary key, and an id that is in it twice makes a pass fail: "
            f"CREATE UNIQUE INDEX chats_id ON {_table(schema)} (id)"
        ),
        FaultKind.DUPLICATE_IDS: f"{ids} in the table more than once, such as {examples}; keep one row of each",
        FaultKind.SIMILAR_IDS: (
            f"{ids} in the table in several spellings, such as {examples}; "
            "to Linq they may be one chat, shared with twice: keep the row that spells it as Linq does"
        ),
        FaultKind.PADDED_IDS: f"{have} an id with blanks around it, such as {examples}; it must be Linq's id alone",
        FaultKind.UNUSABLE_IDS: (
            f"{have} an id that is not a text of 1 to {LONGEST_ID} characters, such as {examples}; "
            "it must be Linq's chat id"
        ),
        FaultKind.NOT_A_TIMESTAMP: (
            f"{have} a {fault.column} that is not a timestamp, such as {examples}; "
            "it must be ISO 8601, such as 2026-03-10T09:00:00Z"
        ),
        FaultKind.IN_THE_FUTURE: (
            f"{have} a {fault.column} in the future, such as {examples}; "
            "it must be a time that has passed, in UTC or with its offset"
        ),
    }
    return texts[fault.kind]


def _table(schema: str | None) -> str:
    """The table `chats` as SQL names it: with a schema of our own, another `chats` may be on the search path."""
    return f'"{schema}".chats' if schema else "chats"


def _example(text: str) -> str:
    """A value of the table, at a length that fits into a line."""
    return text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]}..."
