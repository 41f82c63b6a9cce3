"""Model relays opened for attempts, served while these live, and taken away with them; also across a restart."""

import asyncio
import errno
import re
from functools import partial
from typing import TYPE_CHECKING

import structlog

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import relays
from nanoclaw_broker.broker import Broker
from nanoclaw_broker.deeds import BROKER
from nanoclaw_broker.relay.sockets import Sockets
from nanoclaw_broker.relays import Relay
from nanoclaw_broker.secrets import Secrets
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.errors import Kind, NanoclawError, invalid
from nanoclaw_core.ids import check_group, check_name
from nanoclaw_core.principal import Caller
from nanoclaw_store import Idempotency, Tx

if TYPE_CHECKING:
    from nanoclaw_broker.relay.app import Observe, RelayApp
    from nanoclaw_broker.relay.exchange import Cut
    from nanoclaw_broker.relay.server import RelayServer

log = structlog.get_logger()

_ATTEMPT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Relaying:
    """All relays of this broker. seconds: how long a request may take. observe: told of every request."""

    def __init__(self, broker: Broker, sockets: Sockets, secrets: Secrets, observe: "Observe", seconds: float) -> None:
        self._broker = broker
        self._database = broker.database
        self._sockets = sockets
        self._secrets = secrets
        self._observe = observe
        self._seconds = seconds
        self._idempotency = Idempotency(broker.database, REQUESTS)
        self._serving: dict[str, tuple[RelayApp, RelayServer]] = {}

    async def open(self, caller: Caller, request: pb.OpenRelayRequest, trace_id: str) -> pb.OpenRelayResponse:
        """It can be used when this answers.

        Raises INVALID_FIELD, CONFLICT RELAY_EXISTS, PRECONDITION RELAY_CLOSED, UNAVAILABLE or, where only a person can
        help, PRECONDITION RELAY_UNAVAILABLE.
        """
        check_group("group", request.group)
        if request.task_id:
            check_name("task_id", request.task_id)
        wanted = Relay(_attempt(request.attempt_id), request.group, request.task_id, request.traceparent)

        def unit(tx: Tx) -> pb.OpenRelayResponse:
            relays.open_(tx, wanted, caller.principal, request_id=request.request_id, trace_id=trace_id)
            return pb.OpenRelayResponse(path=str(self._sockets.folder(wanted.attempt)))

        response = await self._idempotency.run(caller.principal, request, unit)
        relay = self._database.read(lambda tx: relays.find_open(tx, wanted.attempt))
        if relay is not None:  # else the request is an old one, and answered as it was
            self._serve(relay)
        return response

    async def close(self, caller: Caller, request: pb.CloseRelayRequest, trace_id: str) -> pb.CloseRelayResponse:
        """Cuts off what is under way; nothing of it is there any more when this answers. Raises INVALID_FIELD."""
        from nanoclaw_broker.relay.exchange import RELAY_CLOSED

        attempt = _attempt(request.attempt_id)

        def unit(tx: Tx) -> pb.CloseRelayResponse:
            closed = relays.close(tx, attempt, caller.principal, request_id=request.request_id, trace_id=trace_id)
            return pb.CloseRelayResponse(changed=closed)

        response = await self._idempotency.run(caller.principal, request, unit)
        await self._stop(attempt, RELAY_CLOSED)
        self._sockets.remove(attempt)
        return response

    async def restore(self) -> None:
        """After a start: those that are open are served again, what is left of others is swept."""
        open_ones = self._database.read(relays.open_ones)
        kept = set()
        for relay in open_ones:
            if not self._sockets.wanted(relay.attempt):
                await self._database.write(partial(relays.close, attempt=relay.attempt, principal=BROKER.principal))
                continue
            kept.add(relay.attempt)
            try:
                self._serve(relay)
            except NanoclawError as error:  # the dispatcher that opened it finds out; the others are served
                log.error("relay_not_restored", attempt=relay.attempt, message=error.message)
        for attempt in self._sockets.attempts():
            if attempt not in kept:
                self._sockets.remove(attempt)
        if kept:
            log.info("relays_restored", count=len(kept))

    async def stop(self) -> None:
        """The broker stops: what is under way is cut off, the sockets stay for the next broker to take over."""
        from nanoclaw_broker.relay.exchange import STOPPING

        await asyncio.gather(*(self._stop(attempt, STOPPING) for attempt in list(self._serving)))

    def _serve(self, relay: Relay) -> None:
        # Imported at the first use: a broker whose agents don't think does without its megabytes.
        from nanoclaw_broker.relay.app import RelayApp
        from nanoclaw_broker.relay.server import RelayServer

        if relay.attempt in self._serving:
            return
        try:
            listening = self._sockets.listen(relay.attempt)
        except OSError as error:
            lasting = error.errno in (errno.EPERM, errno.EACCES, errno.ENOTDIR, errno.ELOOP)
            raise NanoclawError(
                Kind.PRECONDITION if lasting else Kind.UNAVAILABLE,
                "RELAY_UNAVAILABLE",
                f"the relay's socket of {relay.attempt} can't be made: {error.strerror}",
                next_step="see that the broker can write below attempts/ and belongs to the agents' group",
            ) from None
        app = RelayApp(relay, self._broker, self._secrets, self._observe, self._seconds)
        self._serving[relay.attempt] = (app, RelayServer(app.asgi, listening))

    async def _stop(self, attempt: str, why: "Cut") -> None:
        if (serving := self._serving.pop(attempt, None)) is not None:
            app, server = serving
            app.cut_all(why)
            await server.close()


def _attempt(attempt_id: str) -> str:
    """It names a folder. Raises INVALID_FIELD."""
    if not _ATTEMPT.fullmatch(attempt_id):
        raise invalid("attempt_id", "must match [a-z0-9][a-z0-9-]{0,62}", "name the attempt as the dispatcher does")
    return attempt_id
