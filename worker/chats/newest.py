"""The newest outbound and inbound message of a chat, found with as few pages of messages as will do.

Linq does not say in which order it lists messages, though they come newest first. So reading ends early only while
what came is in that order; otherwise every page is read.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from worker.linq.answers import Message

RECOVERED_WITHIN: Final = timedelta(days=7)
"""A message that Linq recovers later than this after it was sent may be overlooked in a chat that was read before."""


FEWEST_IN_ORDER: Final = 10
"""So many messages, the newest first, are no chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """When the newest messages of a chat were made; None: there is none, or the caller knows of a newer one."""

    outbound: datetime | None = None
    inbound: datetime | None = None


async def newest_messages(
    pages: AsyncIterator[Sequence[Message]], known: Newest, read_until: datetime | None = None
) -> Newest:
    """The newest messages of a chat, as far as they are newer than the `known` ones.

    `read_until`: the messages up to then were read before; None: none was. A message without any time is left out.

    Raises:
        LinqError: a page could not be read.
    """
    outbound: list[datetime] = []
    inbound: list[datetime] = []
    times: list[datetime] = []
    async for page in pages:
        for message in page:
            if (at := message.created_at or message.sent_at) is None:
                continue
            times.append(at)
            if message.is_outbound:
                outbound.append(at)
            elif not message.is_from_me:
                inbound.append(at)
        if not _newest_first(times):
            continue
        oldest = times[-1]
        if read_until is not None and oldest < read_until - RECOVERED_WITHIN:
            break
        if (outbound or _covers(known.outbound, oldest)) and (inbound or _covers(known.inbound, oldest)):
            break
    return Newest(outbound=max(outbound, default=None), inbound=max(inbound, default=None))


def _newest_first(times: Sequence[datetime]) -> bool:
    in_order = all(later >= earlier for later, earlier in pairwise(times))
    return in_order and len(times) >= FEWEST_IN_ORDER and times[0] > times[-1]


def _covers(known: datetime | None, oldest: datetime) -> bool:
    """Whether what follows, all of it older than `oldest`, cannot be newer than what is known."""
    return known is not None and known >= oldest
