"""The RPCs: proto in, one call, proto out."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw.dispatcher.v1 import dispatcher_pb2_grpc
from nanoclaw.governance.v1 import governance_pb2
from nanoclaw_core import VERSION
from nanoclaw_core.errors import invalid
from nanoclaw_dispatcher import attempts, dispatches, interventions, listing, messages, tables
from nanoclaw_dispatcher.engine import Engine
from nanoclaw_rpc import current_caller, page, times
from nanoclaw_store import Idempotency, Tx

_BATCH = 200


class Dispatcher(dispatcher_pb2_grpc.DispatcherServiceServicer):
    """nanoclaw.dispatcher.v1.DispatcherService over one engine. started_at: TEXT."""

    def __init__(self, engine: Engine, *, heartbeat_seconds: float, started_at: str) -> None:
        self._engine = engine
        self._means = engine.means
        self._database = engine.means.database
        self._idempotency = Idempotency(engine.means.database, tables.requests)
        self._heartbeat_seconds = heartbeat_seconds
        self._started_at = started_at

    async def ListDispatches(self, request: pb.ListDispatchesRequest, context: Any) -> pb.ListDispatchesResponse:
        wanted = listing.Filter(request.task_id, request.group, messages.state_words(request.states))
        (before,), most = page.after(request, ""), page.size(request)
        found = await self._database.read_in_thread(lambda tx: listing.page(tx, wanted, before, most + 1))
        shown, token = page.cut(
            found, most, lambda each: messages.dispatch_message(*each), lambda each: (each.dispatch["id"],)
        )
        return pb.ListDispatchesResponse(dispatches=shown, next_page_token=token)

    async def GetDispatch(self, request: pb.GetDispatchRequest, context: Any) -> pb.GetDispatchResponse:
        found = self._database.read(lambda tx: listing.find(tx, request.dispatch_id))
        return pb.GetDispatchResponse(dispatch=messages.dispatch_message(*found))

    async def RetryDispatch(self, request: pb.RetryDispatchRequest, context: Any) -> pb.RetryDispatchResponse:
        row = self._database.read(lambda tx: listing.find(tx, request.dispatch_id)).dispatch
        task = await interventions.read_task(self._means, row)
        caller = current_caller()

        def unit(tx: Tx) -> pb.RetryDispatchResponse:
            interventions.retry(tx, self._means, row["id"], task, caller, request.request_id)
            return pb.RetryDispatchResponse(dispatch=messages.dispatch_message(*listing.find(tx, row["id"])))

        response = await self._idempotency.run(caller.principal, request, unit)
        self._engine.resume_soon()
        return response

    async def CancelDispatch(self, request: pb.CancelDispatchRequest, context: Any) -> pb.CancelDispatchResponse:
        caller = current_caller()

        def unit(tx: Tx) -> pb.CancelDispatchResponse:
            changed = interventions.cancel(tx, request.dispatch_id, caller, request.reason, request.request_id)
            found = listing.find(tx, request.dispatch_id)
            return pb.CancelDispatchResponse(dispatch=messages.dispatch_message(*found), changed=changed)

        response = await self._idempotency.run(caller.principal, request, unit)
        row = self._database.read(lambda tx: tx.one(dispatches.BY_ID, id=response.dispatch.id))
        if row is not None and row["cancelled_by"]:
            self._engine.spawn(self._engine.cancel(row))
        return response

    async def WatchDispatches(
        self, request: pb.WatchDispatchesRequest, context: Any
    ) -> AsyncIterator[pb.WatchDispatchesResponse]:
        if request.after_seq < 0:
            raise invalid("after_seq", "must not be negative", "send the last seq seen, or none")
        if request.HasField("after_seq"):
            seq = request.after_seq
            self._database.read(lambda tx: interventions.check_seq(tx, request.after_seq))
        else:
            seq = self._database.read(tables.LOG.head).seq
            yield pb.WatchDispatchesResponse(seq=seq)
        while True:
            commits = self._database.commits
            rows = self._database.read(partial(interventions.changes, after=seq, most=_BATCH))
            for row, found in rows:
                seq = row["seq"]
                if found is not None:
                    yield pb.WatchDispatchesResponse(
                        seq=seq, dispatch=messages.dispatch_message(*found), action=row["action"]
                    )
            if len(rows) == _BATCH:
                continue
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._database.wait_commit(commits)
            except TimeoutError:
                yield pb.WatchDispatchesResponse(seq=seq)

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Any) -> pb.ListGroupsResponse:
        (after,), most = page.after(request, ""), page.size(request)
        groups = sorted((g for g in self._means.groups if g.name > after), key=lambda group: group.name)
        running = self._database.read(attempts.running_by_group)
        doing = self._engine.board.doing()
        shown, token = page.cut(
            groups,
            most,
            lambda g: messages.group_message(g, running.get(g.name, 0), doing.get(g.name, 0)),
            lambda g: (g.name,),
        )
        return pb.ListGroupsResponse(groups=shown, next_page_token=token)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        engine, runtimes = self._engine, self._means.runtimes.values()
        place = engine.follower.place
        return pb.GetStatusResponse(
            version=VERSION,
            started_at=times.to_timestamp(self._started_at),
            runtime=", ".join(runtime.name for runtime in runtimes),
            isolation=", ".join(str(runtime.isolation) for runtime in runtimes),
            running=sum(self._database.read(attempts.running_by_group).values()),
            waiting=len(engine.queue),
            max_containers=self._means.limits.max_containers,
            cursor=governance_pb2.Cursor(epoch=place.epoch, seq=place.seq) if place else None,
            watching=engine.follower.watching,
            instance=self._means.instance,
        )
