"""A webhook subscription of a simulated account, and what Linq accepts in one. Knows neither the account nor HTTP."""

import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

EVENT_TYPES: Final = (
    *(
        "message.sent",
        "message.received",
        "message.read",
        "message.delivered",
        "message.failed",
        "message.edited",
    ),
    *(
        "reaction.added",
        "reaction.removed",
    ),
    *(
        "poll.received",
        "poll.failed",
        "poll.sent",
        "poll.delivered",
        "poll.read",
        "poll.updated",
    ),
    *(
        "poll.vote.added",
        "poll.vote.removed",
    ),
    *("poll.reaction.added",),
    *(
        "participant.added",
        "participant.removed",
    ),
    *(
        "chat.created",
        "chat.group_name_updated",
        "chat.group_icon_updated",
        "chat.group_name_update_failed",
        "chat.group_icon_update_failed",
        "chat.background_updated",
        "chat.background_update_failed",
    ),
    *(
        "chat.typing_indicator.started",
        "chat.typing_indicator.stopped",
    ),
    *(
        "phone_number.status_updated",
        "phone_number.assigned",
        "phone_number.released",
    ),
    *("contact_card.received",),
    *(
        "call.initiated",
        "call.ringing",
        "call.answered",
        "call.ended",
        "call.failed",
        "call.declined",
        "call.no_answer",
    ),
    *(
        "location.sharing.started",
        "location.sharing.stopped",
    ),
    *(
        "payment.succeeded",
        "payment.canceled",
        "payment.expired",
        "payment.declined",
        "payment.authorized",
    ),
    *(
        "connection.created",
        "connection.revoked",
    ),
    *("zero_day_retention.updated",),
    *("phone_number.forwarding_updated",),
    *("environment.line_moved",),
    *(
        "contact_card.created",
        "contact_card.updated",
        "contact_card.deleted",
    ),
    *(
        "api_token.created",
        "api_token.renamed",
        "api_token.expiry_scheduled",
        "api_token.expired",
        "api_token.activated",
        "api_token.deleted",
    ),
    *(
        "environment.created",
        "environment.renamed",
        "environment.deleted",
    ),
    *(
        "webhook_subscription.created",
        "webhook_subscription.deleted",
        "webhook_subscription.target_url_changed",
        "webhook_subscription.enabled",
        "webhook_subscription.disabled",
    ),
    *("webhook_subscription.events.updated",),
    *("webhook_subscription.phone_numbers.updated",),
    *(
        "webhook_subscription.routing_headers_set",
        "webhook_subscription.routing_headers_cleared",
    ),
    *(
        "team_member.added",
        "team_member.signed_in",
        "team_member.signed_out",
    ),
)
"""Every event type that can be subscribed to (SDK: WebhookEventType)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Where events of some types are sent: those of every line, or of `phone_numbers`. Times are in UTC."""

    id: str
    target_url: str
    subscribed_events: tuple[str, ...]
    phone_numbers: tuple[str, ...]
    created_at: datetime
    updated_at: datetime
    secret: str = field(repr=False)
    is_active: bool = True

    def wants(self, event_type: str, line: str | None) -> bool:
        """Whether an event of this type, which concerns this line or none, is sent to it."""
        is_its_line = not self.phone_numbers or line in self.phone_numbers
        return self.is_active and event_type in self.subscribed_events and is_its_line


def is_target(url: str) -> bool:
    """Whether events can be sent there: https, or, unlike at Linq, plain http to this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def new_secret() -> str:
    """A signing secret in Linq's form."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()
