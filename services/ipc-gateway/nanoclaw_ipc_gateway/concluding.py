"""What a file came to is recorded, answered and told; a crash between any two steps repeats none with an effect."""

import asyncio
import contextlib
import time

import structlog
from prometheus_client import Histogram

from nanoclaw_core import clock
from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway import folders, messages, records
from nanoclaw_ipc_gateway.answer import EXECUTED
from nanoclaw_ipc_gateway.claims import Claim
from nanoclaw_ipc_gateway.deciding import Outcome
from nanoclaw_ipc_gateway.mailbox import Home, Mailbox, Origin
from nanoclaw_ipc_gateway.records import Record
from nanoclaw_ipc_gateway.request import AgentMessage
from nanoclaw_ipc_gateway.trace import agent_span
from nanoclaw_store import Change, Database, Tx
from nanoclaw_telemetry import Telemetry

log = structlog.get_logger()

STORE_PAUSE = 0.2
"""Seconds between two tries to record what has happened."""


class Tally:
    """How many files there were, since the first start."""

    requests = 0
    answered = 0
    quarantined = 0


class Concluder:
    """Brings decided files to their end; shared by all mailboxes."""

    def __init__(
        self, home: Home, database: Database, telemetry: Telemetry, now: clock.Clock, quarantine_cap: int
    ) -> None:
        self.tally = Tally()
        self._home = home
        self._database = database
        self._telemetry = telemetry
        self._now = now
        self._quarantine_cap = quarantine_cap
        self._times = telemetry.histogram("nanoclaw_gateway_file_seconds", "from claim to answer", ["type", "status"])
        self._times_of: dict[tuple[str, str], Histogram] = {}

    async def conclude(self, claim: Claim, mailbox: Mailbox, outcome: Outcome, began_ns: int) -> str:
        """Records the outcome, then answers, then forgets the claim. Answers the response file's content.

        Raises NanoclawError STORE_CLOSED, with the claim still there for the next start.
        """
        letter, answer = outcome.letter, outcome.answer
        text = answer.text(letter.name, clock.to_text(self._now()))
        decided = answer.code != "RATE_LIMITED"  # nothing was decided then, and a flood must not fill the log
        if decided:
            await self._record(claim, mailbox, outcome, text)
        if not (decided and outcome.still and self._deliver_in(claim, mailbox, letter.name, text)):
            self.deliver(claim, mailbox, letter.name, text)
        self._tell(claim, mailbox, outcome, began_ns)
        return text

    def _deliver_in(self, claim: Claim, mailbox: Mailbox, name: str, text: str) -> bool:
        """Answers with the request's own file; False where that can't be."""
        if not name or claim.source == "submit":
            return False
        try:
            mailbox.respond_in(self._home.claims, claim, name, text.encode())
        except OSError:
            return False
        return True

    def deliver(self, claim: Claim, mailbox: Mailbox, name: str, text: str) -> None:
        """Answers, then forgets the claim; what can't be delivered now is tried again by the sweep."""
        if name and claim.source != "submit":
            try:
                mailbox.respond(name, text.encode())
            except OSError as error:
                log.warning("answer not delivered", claim=claim.id, mailbox=claim.mailbox, error=str(error))
                return
        try:
            self._home.claims.discard(claim)
        except OSError as error:
            log.error("claim not removed", claim=claim.id, error=str(error))

    async def _record(self, claim: Claim, mailbox: Mailbox, outcome: Outcome, text: str) -> None:
        letter, answer, origin = outcome.letter, outcome.answer, mailbox.origin
        body = letter.parsed.body if letter.parsed else None
        record = Record(
            id=claim.id,
            origin=origin,
            source=claim.source,
            file_name=claim.shown,
            type=letter.type,
            request_id=letter.request_id,
            digest=letter.digest,
            size_bytes=letter.size_bytes,
            state=records.QUARANTINED if letter.quarantine else records.ANSWERED,
            status=answer.status,
            code=answer.code,
            message=answer.error,
            name=letter.name,
            answer=text,
            task_id=_task_of(outcome),
            trace_id=outcome.place.span.trace_id,
        )
        message = None
        if isinstance(body, AgentMessage) and answer.status == EXECUTED:
            message = messages.NewMessage(claim.id, origin, body.text, body.sender or "")
        if letter.quarantine and outcome.raw is not None:
            with contextlib.suppress(OSError):  # the row tells what it was
                name = kept_name(origin.group, claim.id)
                folders.put(self._home.errors, name, outcome.raw, 0o600, self._home.owners, private=True)
        for old in await self._save(record, message):
            folders.remove(self._home.errors, kept_name(origin.group, old))
        self.tally.requests += 1
        self.tally.answered += not letter.quarantine
        self.tally.quarantined += letter.quarantine

    async def _save(self, record: Record, message: messages.NewMessage | None) -> list[str]:
        def unit(tx: Tx) -> list[str]:
            changes: list[Change] = messages.add(tx, message) if message else []
            return records.save(tx, record, self._quarantine_cap, changes)

        while True:
            try:
                return await self._database.write(unit)
            except NanoclawError as error:
                # What the far side did can't be undone, and what is not durable is not told: wait for the disk.
                if error.reason == "STORE_CLOSED":
                    raise
                log.error("request not recorded yet", claim=record.id, code=error.reason)
                await asyncio.sleep(STORE_PAUSE)

    def _tell(self, claim: Claim, mailbox: Mailbox, outcome: Outcome, began_ns: int) -> None:
        letter, answer, origin, now_ns = outcome.letter, outcome.answer, mailbox.origin, time.time_ns()
        kind = (letter.type, answer.status)
        times = self._times_of.get(kind)
        if times is None:  # looking a child up is dear, and there are few
            times = self._times_of[kind] = self._times.labels(*kind)
        times.observe((now_ns - began_ns) / 1e9)
        tell = log.warning if letter.quarantine else log.debug
        tell("file taken in", group=origin.group, attempt=origin.attempt_id, claim=claim.id, code=answer.code)
        if not self._telemetry.enabled:
            return
        spot = outcome.place
        if spot.agent is not None and (reported := agent_span(letter.span)):
            self._telemetry.emit(
                reported.name,
                spot.agent,
                parent=origin.trace,
                start_ns=reported.start_ns,
                end_ns=reported.end_ns,
                attributes=_whose(origin),
                service="agent",
            )
        self._telemetry.emit(
            "ipc.request",
            spot.span,
            parent=spot.parent,
            links=spot.links,
            start_ns=began_ns,
            end_ns=now_ns,
            kind="consumer",
            error="" if answer.status == EXECUTED else answer.code,
            attributes={
                **_whose(origin),
                "nanoclaw.task": _task_of(outcome) or origin.task_id,
                "nanoclaw.type": letter.type,
                "nanoclaw.claim": claim.id,
                "nanoclaw.status": answer.status,
                "nanoclaw.code": answer.code,
            },
        )


def kept_name(group: str, claim_id: str) -> str:
    """The name of a quarantined file in ipc/errors."""
    return f"{group}-{claim_id}.json"


def _whose(origin: Origin) -> dict[str, str | int | bool]:
    whose: dict[str, str | int | bool] = {"nanoclaw.group": origin.group}
    return whose | ({"nanoclaw.attempt": origin.attempt_id} if origin.attempt_id else {})


def _task_of(outcome: Outcome) -> str:
    parsed, data = outcome.letter.parsed, outcome.answer.data
    if parsed is None:
        return ""
    if parsed.type == "gov_create" and isinstance(data, dict):
        return str(data.get("id", ""))
    return parsed.body.task
