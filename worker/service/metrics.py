"""What Prometheus is told: the names and labels of all metrics, none of them personal."""

from datetime import datetime
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from worker import __version__, db
from worker.linq.answers import ErrorCode
from worker.outcomes import Answer, Outcome, PassResult, RunStatus, Trigger
from worker.rules.eligibility import Verdict

ScheduleEvent = Literal["fired", "missed", "skipped", "failed"]

SHARE_SECONDS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PASS_SECONDS: Final = (1, 10, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)

REFUSALS: Final = (
    ErrorCode.RATE_LIMITED,
    ErrorCode.CHAT_NOT_FOUND,
    ErrorCode.UNAUTHORIZED,
    ErrorCode.ACCESS_DENIED,
    ErrorCode.NO_ACTIVE_CARD,
    ErrorCode.CHAT_UNAVAILABLE,
    ErrorCode.OPTED_OUT,
    ErrorCode.HANDLE_BLOCKED,
    ErrorCode.LINE_REFUSED,
)
"""What Linq refuses a share for."""

# A second series for each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no type for it


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._attempts = Counter(
            "share_worker_attempts",
            "Share attempts recorded, by outcome and Linq's error code.",
            ["outcome", "code"],
            registry=registry,
        )
        self._share_seconds = Histogram(
            "share_worker_share_seconds", "How long a share request took.", buckets=SHARE_SECONDS, registry=registry
        )
        self._pass_seconds = Histogram(
            "share_worker_pass_seconds",
            "How long a pass took, by what started it and how it ended.",
            ["trigger", "status"],
            buckets=PASS_SECONDS,
            registry=registry,
        )
        self._pass_running = Gauge("share_worker_pass_running", "1 while a pass runs.", registry=registry)
        self._webhooks = Counter(
            "share_worker_webhooks",
            "Linq's webhooks by kind of event, and by what became of them: written, ignored, refused, failed.",
            ["kind", "result"],
            registry=registry,
        )
        self._webhook_seconds = Histogram(
            "share_worker_webhook_seconds", "How long a webhook took to be answered.", registry=registry
        )
        self._pass_due = Gauge(
            "share_worker_pass_due", "Chats that this process's last pass set out to share with.", registry=registry
        )
        self._rejected_ratio = Gauge(
            "share_worker_last_pass_rejected_ratio",
            "Of the attempts of this process's last pass that made any, the part that Linq rejected (0 to 1).",
            registry=registry,
        )
        self._last_completed = Gauge(
            "share_worker_last_completed_pass_timestamp_seconds",
            "When the last completed pass ended, of any worker on the database; 0 if there was none.",
            registry=registry,
        )
        self._chats = Gauge(
            "share_worker_chats",
            "Chats by verdict at the end of this process's last pass; 'due' are those that still wait.",
            ["verdict"],
            registry=registry,
        )
        self._stale_claims = Counter(
            "share_worker_stale_claims_settled",
            "Claims of dead workers that were turned into 'unknown'.",
            registry=registry,
        )
        self._access_refused = Counter(
            "share_worker_access_refused",
            "Passes that ended because Linq refused the key, at the cards already or at a share.",
            registry=registry,
        )
        self._schedule = Counter(
            "share_worker_schedule", "What became of the scheduled times.", ["event"], registry=registry
        )
        self._notifications = Counter(
            "share_worker_notifications",
            "Notifications by what became of them: sent, failed; one for each receiver.",
            ["result"],
            registry=registry,
        )
        self._next_fire = Gauge(
            "share_worker_next_fire_timestamp_seconds", "When the schedule fires next.", registry=registry
        )
        build = Gauge("share_worker_build_info", "This worker.", ["version", "schema"], registry=registry)
        build.labels(version=__version__, schema=db.HEAD).set(1)
        # From the start, so that the first one of its kind is an increase to Prometheus.
        for event in ("fired", "missed", "skipped", "failed"):
            self._schedule.labels(event=event)
        for result in ("sent", "failed"):
            self._notifications.labels(result=result)
        for outcome in (Outcome.SHARED, Outcome.UNKNOWN, Outcome.UNSENT):
            self._attempts.labels(outcome=outcome.value, code="")
        for code in REFUSALS:
            self._attempts.labels(outcome=Outcome.REJECTED.value, code=str(code.value))

    def answered(self, answer: Answer, seconds: float) -> None:
        """An attempt was recorded."""
        self._attempts.labels(outcome=answer.outcome.value, code=str(answer.error_code or "")).inc()
        self._share_seconds.observe(seconds)

    def webhook(self, kind: str, result: str, seconds: float) -> None:
        """A webhook was answered."""
        self._webhooks.labels(kind=kind, result=result).inc()
        self._webhook_seconds.observe(seconds)

    def due(self, chats: int) -> None:
        """A pass is about to share with so many chats."""
        self._pass_due.set(chats)

    def pass_started(self) -> None:
        """A pass began."""
        self._pass_running.set(1)

    def pass_ended(self, trigger: Trigger, result: PassResult | None) -> None:
        """A pass ended; None where it could not even begin, for want of the database."""
        self._pass_running.set(0)
        if result is None:
            return
        seconds = (result.finished_at - result.started_at).total_seconds()
        self._pass_seconds.labels(trigger=trigger.value, status=result.status.value).observe(max(seconds, 0.0))
        self._stale_claims.inc(result.stale_claims)
        if result.access_refused:
            self._access_refused.inc()
        if result.tally is not None:
            tally = result.tally
            if attempted := tally["shared"] + tally["rejected"] + tally["unknown"]:
                self._rejected_ratio.set(tally["rejected"] / attempted)
            for name in Verdict:
                self._chats.labels(verdict=name.value).set(result.tally["skipped"].get(name.value, 0))
            self._chats.labels(verdict=Verdict.DUE.value).set(result.tally["left"] + result.tally["unsent"])
        if result.status is RunStatus.COMPLETED:
            self.completed(result.finished_at)

    def finished_elsewhere(self, at: datetime | None) -> None:
        """Another worker's pass left nobody waiting, of those that this one's last pass did."""
        self._chats.labels(verdict=Verdict.DUE.value).set(0)
        self.completed(at)

    def completed(self, at: datetime | None) -> None:
        """When the last completed pass ended."""
        self._last_completed.set(at.timestamp() if at else 0)

    def scheduled(self, event: ScheduleEvent) -> None:
        """A scheduled time came, was missed, was skipped, or its pass failed."""
        self._schedule.labels(event=event).inc()

    def notified(self, result: str) -> None:
        """A receiver of notifications accepted a message, or did not."""
        self._notifications.labels(result=result).inc()

    def next_fire(self, at: datetime | None) -> None:
        """When the schedule fires next."""
        self._next_fire.set(at.timestamp() if at else 0)
