"""The table `chats` with verdicts, a search, and one chat explained."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Final

from worker.db.partner_values import LONGEST_ID
from worker.errors import UsageError
from worker.questions.chat_list import LOOKED_AT, ChatFilter, ChatPage, ListedChat, chats_page, find_chats
from worker.questions.explain import Explanation, explain
from worker.questions.suggest import similar_chat_ids, there_is_no
from worker.rules.eligibility import Verdict
from worker.text import one_line, span, unparseable
from worker.web.pages import query
from worker.web.pages.reader import Reader
from worker.web.pages.render import Reading, View
from worker.wording.attempts import answer, rerun
from worker.wording.explain import explanation_document, fact_texts, next_due_texts

ROWS: Final = 50

PERSONAL: Final = ("from_number", "handle", "paused_reason", "phone_number")
"""Values that may hold phone numbers."""


async def chats_view(reader: Reader, reading: Reading) -> View:
    """The page at `/chats`.

    Raises:
        TooSlowError: the filter needs too long.
    """
    words, line, after = (query.word(reading, name) for name in ("q", "line", "after"))
    verdicts = query.words(reading, "verdict", Verdict)
    rules, now = reader.rules, reading.now
    page = ChatPage(chats=[], next_after=None, is_whole=True)
    if not reading.errors:
        async with reader.listing() as connection:
            if words is not None:
                page = await find_chats(connection, rules, words[:LONGEST_ID], now, ROWS)
            else:
                lines = reading.numbers.lines_named(line) if line else []
                wanted = ChatFilter(verdicts=verdicts, lines=lines, after=after)
                page = await chats_page(connection, rules, wanted, now, at_most=ROWS)
    given = {"verdict": [verdict.value for verdict in verdicts], "line": line}
    following = reading.link("/chats", **given, after=page.next_after) if page.next_after is not None else None
    shown = reading.numbers
    command = ["share-worker", "chats", "list"]
    command += [part for verdict in verdicts for part in ("--verdict", verdict.value)]
    command += ["--line", line] if line else []
    return View(
        template="chats.html",
        title="Chats",
        command=shlex.join(["share-worker", "explain", words] if words else [*command, "--limit", str(ROWS)]),
        context={
            "rows": [(chat, Verdict(chat.verdict)) for chat in page.chats],
            "page": page,
            "looked_at": LOOKED_AT,
            "given": given | {"q": words},
            "verdicts": list(Verdict),
            "lines": shown.names(),
            "following": following,
            "first": reading.link("/chats", **given) if after else None,
        },
        document={
            "chats": [_listed(chat, reading) for chat in page.chats],
            "next": following,
            "is_whole": page.is_whole,
            "errors": reading.errors,
        },
        status=400 if reading.errors else 200,
    )


async def chat_view(reader: Reader, reading: Reading, chat_id: str) -> View:
    """The page at `/chats/ID`: what `share-worker explain` says.

    Raises:
        UsageError: neither the table nor the ledger has it.
        TooSlowError: it takes too long.
    """
    rules = reader.rules
    async with reader.listing() as connection:
        explained = await explain(connection, rules, reader.schedule, chat_id, reading.now)
        if explained is None:
            raise UsageError(there_is_no("chat", chat_id, await similar_chat_ids(connection, chat_id)))
    facts = fact_texts(explained, rules)
    judgement, shown = explained.judgement, reading.numbers
    return View(
        template="chat.html",
        title=f"Chat {one_line(shown.text(chat_id), 60)}",
        command=shlex.join(["share-worker", "explain", chat_id]),
        context={
            "explained": explained,
            "fields_of_chat": _fields(explained, reading),
            "card": _row(explained.card, reading),
            "line": _row(explained.line, reading),
            "judgement": judgement,
            "facts": {rule: shown.text(one_line(text)) for rule, text in facts.items()},
            "next_due": next_due_texts(judgement.next_due, rules, reading.now) if judgement else {},
            "total": sum(explained.history.outcomes.values()),
            "attempts": [
                {
                    "attempt": attempt,
                    "answer": answer(attempt),
                    "took": span(attempt.finished_at - attempt.claimed_at) if attempt.finished_at else "not finished",
                    "notes": [shown.text(text) for text in (rerun(attempt), attempt.error_message) if text],
                }
                for attempt in explained.attempts
            ],
        },
        document=_masked(explanation_document(explained, rules), reading),
    )


def _listed(chat: ListedChat, reading: Reading) -> dict[str, object]:
    shown = reading.numbers
    numbers = {"from_number": shown.line(chat.from_number or ""), "handle": chat.handle and shown.text(chat.handle)}
    return asdict(chat) | numbers


def _fields(explained: Explanation, reading: Reading) -> dict[str, object]:
    row = _row(explained.chat, reading)
    row.pop("id", None)
    return row | {name: unparseable(written) for name, written in explained.unreadable.items()}


def _row(row: Mapping[str, object] | None, reading: Reading) -> dict[str, object]:
    """A row of a table as it is shown; timestamps stay."""
    return {name: _value(name, value, reading) for name, value in (row or {}).items()}


def _value(name: str, value: object, reading: Reading) -> object:
    if isinstance(value, datetime | bool) or value is None:
        return value
    text = one_line(str(value))
    return reading.numbers.text(text) if name in PERSONAL or "+" in text else text


def _masked(document: Mapping[str, object], reading: Reading) -> dict[str, object]:
    """A document with its phone numbers as they are shown."""
    return {
        name: reading.numbers.text(item) if name in PERSONAL and isinstance(item, str) else _mask(item, reading)
        for name, item in document.items()
    }


def _mask(value: object, reading: Reading) -> object:
    match value:
        case dict():
            return _masked(value, reading)
        case list():
            return [_mask(item, reading) for item in value]
        case str():
            return reading.numbers.text(value) if "+" in value else value
        case other:
            return other
