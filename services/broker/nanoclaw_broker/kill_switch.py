"""The kill switch as people throw it: freezes set, lifted and listed; requests kept, watchers told."""

import sqlite3
from collections.abc import Callable
from functools import partial

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import freeze, freezes, messages
from nanoclaw_broker.freeze import Freeze, Scope
from nanoclaw_broker.granting import PROVIDERS
from nanoclaw_broker.policy import Level
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.errors import invalid, not_found
from nanoclaw_core.principal import Caller
from nanoclaw_store import Database, Idempotency, Tx

MOST_REASON = 500
_LEVELS = "choose one of ACCESS_LEVEL_L0, ACCESS_LEVEL_L1, ACCESS_LEVEL_L2; L0 stops all"


class KillSwitch:
    """Lowers ceilings. changed: called after each change."""

    def __init__(self, database: Database, registry: Registry, changed: Callable[[], None]) -> None:
        self._database = database
        self._registry = registry
        self._changed = changed
        self._idempotency = Idempotency(database, REQUESTS)

    async def freeze(self, caller: Caller, request: pb.FreezeRequest, trace_id: str) -> pb.FreezeResponse:
        """In force when it is answered. Raises INVALID_FIELD, PROVIDER_NOT_FOUND, FREEZE_IS_LOWER."""
        wanted = self._wanted(request)

        def unit(tx: Tx) -> pb.FreezeResponse:
            row = freezes.find(tx, wanted.scope, wanted.name)
            held = freezes.as_freeze(row) if row is not None and row["active"] else None
            if row is None or freeze.changes(wanted, held, caller):
                row = freezes.set_(tx, wanted, caller, request_id=request.request_id, trace_id=trace_id)
            return pb.FreezeResponse(freeze=messages.call_freeze(row))

        response = await self._idempotency.run(caller.principal, request, unit)
        self._changed()
        return response

    def _wanted(self, request: pb.FreezeRequest) -> Freeze:
        scope, name = self._aim(request)
        try:
            level = Level(request.max_level - 1)
        except ValueError:
            level = Level.L3
        if level is Level.L3:
            raise invalid("max_level", "does not say how far calls may still go", _LEVELS)
        reason = request.reason.strip()
        if not reason or len(reason) > MOST_REASON:
            raise invalid("reason", f"must have 1 to {MOST_REASON} characters", "say why, for those who are stopped")
        return Freeze(scope, name, level, reason)

    def _aim(self, request: pb.FreezeRequest | pb.UnfreezeRequest) -> tuple[Scope, str]:
        """A misspelt provider would freeze nothing, so it must be there."""
        scope, name = freeze.aim(request.group, request.provider)
        if scope is Scope.PROVIDER and isinstance(request, pb.FreezeRequest) and self._registry.get(name) is None:
            raise not_found("provider", name, "provider", PROVIDERS)
        return scope, name

    async def unfreeze(self, caller: Caller, request: pb.UnfreezeRequest, trace_id: str) -> pb.UnfreezeResponse:
        """Lifts one; changed=false where there was none in force."""
        scope, name = self._aim(request)

        def unit(tx: Tx) -> pb.UnfreezeResponse:
            row = freezes.find(tx, scope, name)
            if row is None or not row["active"]:
                return pb.UnfreezeResponse()
            reason = request.reason[:MOST_REASON]
            freezes.lift(tx, row, caller, reason=reason, request_id=request.request_id, trace_id=trace_id)
            return pb.UnfreezeResponse(changed=True)

        response = await self._idempotency.run(caller.principal, request, unit)
        self._changed()
        return response

    def page(self, after: tuple[str, str], most: int) -> list[sqlite3.Row]:
        """Rows of those in force."""
        return self._database.read(partial(freezes.page, after=after, most=most))
