"""A claimed file is read, understood and decided; nothing of it is recorded or answered here."""

import asyncio
import time
from dataclasses import dataclass

import structlog

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import new_ulid
from nanoclaw_ipc_gateway.answer import Answer, executed, refused
from nanoclaw_ipc_gateway.calls import Calls, Incoming
from nanoclaw_ipc_gateway.claims import Claim, Claims
from nanoclaw_ipc_gateway.lanes import Lanes
from nanoclaw_ipc_gateway.limits import Limits
from nanoclaw_ipc_gateway.mailbox import Mailbox
from nanoclaw_ipc_gateway.reading import Letter, read_letter, unread
from nanoclaw_ipc_gateway.request import AgentMessage
from nanoclaw_ipc_gateway.seats import Worker
from nanoclaw_ipc_gateway.strict_json import INCOMPLETE
from nanoclaw_ipc_gateway.trace import Place, place
from nanoclaw_telemetry import under

log = structlog.get_logger()

LARGE = 160 * 1024
"""Content longer than this is parsed in a thread, one file of a mailbox at a time."""

UNSETTLED = INCOMPLETE | {"LINKED"}
"""Codes that a file may have for a moment and lose: while it is written, or until its temporary name is removed."""

LONG = frozenset({"ext_call", "ext_approve"})
"""What may take as long as a call does: the last vote has one carried out."""

PATIENCE = 10
"""A file that keeps changing is given up after this many times the stillness that is asked of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a claimed file came to. place: of its span. raw: what was read, if anything was. still: it was whole at the
    first look, so that nobody should be writing to it any more.
    """

    letter: Letter
    answer: Answer
    place: Place
    raw: bytes | None = None
    still: bool = False


class Decider:
    """Decides claimed files; shared by all mailboxes."""

    def __init__(self, claims: Claims, calls: Calls, limits: Limits, settle_seconds: float) -> None:
        self._claims = claims
        self._calls = calls
        self._limits = limits
        self._settle_seconds = settle_seconds
        self._lanes = Lanes()

    async def decide(self, claim: Claim, mailbox: Mailbox, worker: Worker) -> Outcome:
        """What the file comes to. Raises NanoclawError FILE_GONE; whatever else goes wrong is an answer."""
        deadline = asyncio.get_running_loop().time() + self._calls.seconds
        size = self._claims.stamp(claim)[0]
        try:
            self._limits.take(mailbox.origin.group, size, time.monotonic())
        except NanoclawError as limited:
            # It is read for the name to answer under, where that costs little.
            letter = unread(claim, limited, size) if size > LARGE else (await self._read(claim, mailbox, worker))[0]
            return Outcome(letter, refused(limited), place(mailbox.origin.trace, None))
        letter, raw = await self._read(claim, mailbox, worker)
        still = letter.error is None
        if letter.error is not None and letter.error.reason in UNSETTLED:
            with worker.settling() as allowed:
                if allowed:
                    letter, raw = await self._settled(letter, raw, claim, mailbox, worker)
        spot = place(mailbox.origin.trace, letter.traceparent)
        if letter.error is not None:
            return Outcome(letter, refused(letter.error), spot, raw)
        with under(spot.span):
            answer = await self._answer(letter, claim, mailbox, worker, deadline)
        return Outcome(letter, answer, spot, raw, still)

    async def _read(self, claim: Claim, mailbox: Mailbox, worker: Worker) -> tuple[Letter, bytes | None]:
        try:
            raw = self._claims.read(claim)
        except NanoclawError as error:
            if error.reason == "FILE_GONE":
                raise
            return unread(claim, error, self._claims.stamp(claim)[0]), None
        if len(raw) <= LARGE:
            return read_letter(raw, claim, mailbox.secret), raw
        async with worker.large:
            return await asyncio.to_thread(read_letter, raw, claim, mailbox.secret), raw

    async def _settled(
        self, letter: Letter, raw: bytes | None, claim: Claim, mailbox: Mailbox, worker: Worker
    ) -> tuple[Letter, bytes | None]:
        """The file once it can be read, or once it has been still for long enough."""
        loop = asyncio.get_running_loop()
        pause = min(0.05, self._settle_seconds / 4)
        stamp: tuple[int, ...] = ()
        began = still_since = loop.time()
        while True:
            await asyncio.sleep(pause)
            found = self._claims.stamp(claim)
            if found != stamp:
                stamp, still_since = found, loop.time()
                letter, raw = await self._read(claim, mailbox, worker)
                if letter.error is None or letter.error.reason not in UNSETTLED:
                    return letter, raw
            now = loop.time()
            if now - still_since >= self._settle_seconds or now - began >= PATIENCE * self._settle_seconds:
                return letter, raw

    async def _answer(self, letter: Letter, claim: Claim, mailbox: Mailbox, worker: Worker, deadline: float) -> Answer:
        assert letter.parsed is not None
        kind, body = letter.parsed
        if isinstance(body, AgentMessage):
            return executed({"id": claim.id}, "kept for the operator")
        origin = mailbox.origin
        incoming = Incoming(
            kind, body, origin, letter.request_id or claim.id, deadline, letter.signature, letter.params
        )
        try:
            if kind in LONG:
                with worker.calling() as allowed:
                    return await self._calls.answer(incoming) if allowed else _busy(origin.group)
            keys = [(origin.group, "request", letter.request_id)] if letter.request_id else []
            keys += [(origin.group, "key", body.key)] if body.key else []
            async with self._lanes.turn(keys):
                return await self._calls.answer(incoming)
        except Exception:
            incident = new_ulid()
            log.exception("request failed", incident=incident, claim=claim.id, type=kind)
            return refused(
                NanoclawError(
                    Kind.INTERNAL,
                    "INTERNAL",
                    f"a defect of ours, incident {incident}",
                    next_step="report the incident to the operator; the gateway's log has the rest under it",
                )
            )


def _busy(group: str) -> Answer:
    return refused(
        NanoclawError(
            Kind.EXHAUSTED,
            "BUSY",
            f"too many calls of group {group} are under way",
            next_step="wait for an answer before you ask again",
        )
    )
