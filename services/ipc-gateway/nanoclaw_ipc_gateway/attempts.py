"""Mailboxes of attempts: opened before an attempt starts, drained and closed after it has ended."""

from functools import partial

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError, invalid
from nanoclaw_core.ids import check_group, check_name, check_request_id
from nanoclaw_core.principal import Caller
from nanoclaw_ipc_gateway import mailboxes
from nanoclaw_ipc_gateway.intake import Box, Intake
from nanoclaw_ipc_gateway.lanes import Lanes
from nanoclaw_ipc_gateway.mailbox import RESERVED, Home, Origin
from nanoclaw_ipc_gateway.snapshots import Snapshots
from nanoclaw_rpc import current_trace, times
from nanoclaw_store import Database, Idempotency, Tx
from nanoclaw_telemetry import TraceContext


class Attempts:
    """OpenMailbox and CloseMailbox."""

    def __init__(
        self, home: Home, database: Database, intake: Intake, snapshots: Snapshots, idempotency: Idempotency
    ) -> None:
        self._home = home
        self._database = database
        self._intake = intake
        self._snapshots = snapshots
        self._idempotency = idempotency
        self._lanes = Lanes()

    async def open(self, caller: Caller, request: gateway.OpenMailboxRequest) -> gateway.OpenMailboxResponse:
        """Makes, fills and watches an attempt's mailbox; ready for the agent when this returns."""
        check_name("attempt_id", request.attempt_id)
        if check_group("group", request.group) in RESERVED:
            raise invalid("group", f"no group can be called {request.group!r}", "name a group of config/groups.toml")
        if request.task_id:
            check_name("task_id", request.task_id)
        if request.traceparent and TraceContext.parse(request.traceparent) is None:
            raise invalid("traceparent", "is no W3C trace context", "leave it out, or send one")
        trace_id = current_trace().trace_id

        def unit(tx: Tx) -> gateway.OpenMailboxResponse:
            mailboxes.add_standing(tx, request.group)
            origin = mailboxes.add_attempt(
                tx, caller.principal, request.attempt_id, request.group, request.task_id, request.fence,
                request.traceparent, trace_id,
            )  # fmt: skip
            return gateway.OpenMailboxResponse(path=str(self._home.path_of(origin)))

        response = await self._idempotency.run(caller.principal, request, unit)
        row = self._database.read(partial(mailboxes.of_attempt, attempt_id=request.attempt_id))
        if row["state"] == "OPEN":
            await self.ready(mailboxes.origin(row))
            await self.ready(self._database.read(partial(mailboxes.standing, group=request.group)))
        return response

    async def ready(self, origin: Origin) -> None:
        """Watches a mailbox, with snapshots in it. Raises UNAVAILABLE MAILBOX_UNUSABLE."""
        known = self._intake.get(origin.number)
        if not origin.attempt_id and known is not None and known.watch is not None:
            return
        try:
            box = self._intake.open(origin)
        except OSError as error:
            raise NanoclawError(
                Kind.UNAVAILABLE,
                "MAILBOX_UNUSABLE",
                f"the directories of mailbox {origin.number} can't be had: {error.strerror}",
                next_step=f"look at {self._home.path_of(origin)}",
            ) from None
        await self._snapshots.prepare(box.mailbox)

    async def close(self, caller: Caller, request: gateway.CloseMailboxRequest) -> gateway.CloseMailboxResponse:
        """Decides and answers everything that an attempt has written, then closes its mailbox for good."""
        check_request_id(request.request_id)
        check_name("attempt_id", request.attempt_id)
        number: int = self._database.read(partial(mailboxes.of_attempt, attempt_id=request.attempt_id))["number"]
        trace_id = current_trace().trace_id
        async with self._lanes.turn([number]):
            row = self._database.read(partial(mailboxes.of_attempt, attempt_id=request.attempt_id))
            box: Box | None = None
            drained = 0
            if row["state"] == "OPEN":
                box = self._intake.get(number) or self._intake.open(mailboxes.origin(row))
                drained = await self._intake.drain(box)

            def unit(tx: Tx) -> gateway.CloseMailboxResponse:
                if row["state"] == "OPEN":
                    mailboxes.close(tx, caller.principal, row, trace_id)
                last = mailboxes.last_file(tx, number)
                return gateway.CloseMailboxResponse(drained=drained, last_activity=times.to_optional(last))

            response = await self._idempotency.run(caller.principal, request, unit)
            if box is not None:
                self._intake.close(box)
        return response
