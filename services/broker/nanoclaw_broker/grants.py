"""Grants made and ended: the requests kept, the streams told."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import capabilities, freezes, granting, messages
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.freeze import Freeze
from nanoclaw_broker.news import News
from nanoclaw_broker.policy import Level
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.clock import Clock, from_text, utc_now
from nanoclaw_core.ids import NewId, new_ulid
from nanoclaw_core.principal import Caller
from nanoclaw_store import Database, Idempotency, Tx


class Grants:
    """What groups may do, changed and watched."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        news: News,
        product: Callable[[str], Awaitable[str]],
        *,
        new_id: NewId = new_ulid,
        clock: Clock = utc_now,
    ) -> None:
        """product: the id of the product of that id or name; raises PRODUCT_NOT_FOUND, GOVERNANCE_UNAVAILABLE."""
        self._database = database
        self._registry = registry
        self._news = news
        self._product = product
        self._new_id = new_id
        self._clock = clock
        self._idempotency = Idempotency(database, REQUESTS)

    async def grant(self, caller: Caller, request: pb.GrantRequest, trace_id: str) -> pb.GrantResponse:
        """Grants or renews; see granting.decide_grant for what is refused, and PRODUCT_NOT_FOUND."""
        provider, capability = self._registry.get(request.provider), messages.wanted_capability(request)
        if request.product_id:
            granting.check_form(capability)
            capability = replace(capability, product_id=await self._product(request.product_id))
        wish = granting.Wish(capability, provider.levels if provider is not None else None)
        new_id = self._new_id()

        def unit(tx: Tx) -> pb.GrantResponse:
            wanted = granting.decide_grant(wish, caller, tx.now)
            _check_held(tx, wanted, caller)
            row = capabilities.grant(tx, wanted, new_id, caller, request_id=request.request_id, trace_id=trace_id)
            return pb.GrantResponse(capability=messages.capability(row, tx.now))

        response = await self._idempotency.run(caller.principal, request, unit)
        self._news.tell()
        return response

    async def revoke(self, caller: Caller, request: pb.RevokeRequest, trace_id: str) -> pb.RevokeResponse:
        """Ends a grant; changed=false where there was none that was active."""
        granting.check_form(Capability(request.group, request.provider, Level.L1, product_id=request.product_id))

        def unit(tx: Tx) -> pb.RevokeResponse:
            row = capabilities.find(tx, request.group, request.provider, request.product_id)
            if row is None or not row["active"]:
                return pb.RevokeResponse()
            _check_held(tx, capabilities.as_capability(row), caller)
            ended = capabilities.revoke(
                tx, row, caller, reason=request.reason[:500], request_id=request.request_id, trace_id=trace_id
            )
            return pb.RevokeResponse(capability=messages.capability(ended, tx.now), changed=True)

        response = await self._idempotency.run(caller.principal, request, unit)
        self._news.tell()
        return response

    def page(
        self, group: str, after: tuple[str, str, str], most: int, *, include_inactive: bool
    ) -> tuple[list[tuple[sqlite3.Row, tuple[Freeze, ...]]], str]:
        """Rows of grants, each with the freezes that it meets, and the moment they were read at."""

        def query(tx: Tx) -> tuple[list[tuple[sqlite3.Row, tuple[Freeze, ...]]], str]:
            rows = capabilities.page(tx, group, after, most, include_inactive=include_inactive)
            return [(row, freezes.in_force(tx, row["group_name"], row["provider"])) for row in rows], tx.now

        return self._database.read(query)

    async def revisions(self) -> AsyncIterator[int]:
        """The present revision, then each later one: after a change, and when a grant expires."""
        told: int | None = None
        while True:
            changed = self._news.next
            revision, next_end = self._database.read(_look)
            revision += self._news.edition
            if revision != told:
                told = revision
                yield revision
            try:
                async with asyncio.timeout(self._seconds_until(next_end)):
                    await changed.wait()
            except TimeoutError:
                continue

    def _seconds_until(self, moment: str) -> float | None:
        if not moment:
            return None
        return max(0.001, (from_text(moment) - self._clock()).total_seconds())


def _check_held(tx: Tx, wanted: Capability, caller: Caller) -> None:
    """What is in force may be an admin's alone to replace or end."""
    row = capabilities.find(tx, wanted.group, wanted.provider, wanted.product_id)
    if row is None or not row["active"]:
        return
    held = capabilities.as_capability(row)
    if not held.expired(tx.now):
        granting.check_grantor(caller, held.level)


def _look(tx: Tx) -> tuple[int, str]:
    return capabilities.revision(tx), capabilities.next_end(tx)
