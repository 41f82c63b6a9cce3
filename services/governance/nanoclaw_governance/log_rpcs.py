"""The RPCs about the log, the policy, and the service itself."""

from collections.abc import AsyncIterator
from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core import VERSION
from nanoclaw_core.errors import invalid
from nanoclaw_governance import activities, listing, names, products, tasks, wire
from nanoclaw_governance.reading import require_task, verify_log
from nanoclaw_governance.servicing import Servicing
from nanoclaw_governance.tables import LOG
from nanoclaw_governance.watch import watch
from nanoclaw_rpc import current_caller, page
from nanoclaw_rpc.times import to_timestamp
from nanoclaw_store import Tx


class LogRpcs(Servicing):
    """The log: listed, watched, verified; the policy; the status."""

    async def ListActivities(self, request: pb.ListActivitiesRequest, context: Any) -> pb.ListActivitiesResponse:
        caller, (start,), most = current_caller(), page.after(request, 0), page.size(request)
        require_task(request, caller)

        def query(tx: Tx) -> Any:
            if request.task_id:
                tasks.find(tx, request.task_id, caller)
            return activities.page(tx, request.task_id, request.action, start, most + 1)

        found = await self._database.read_in_thread(query) if request.action else self._database.read(query)
        shown, token = page.cut(found, most, wire.activity_message, lambda row: (row["seq"],))
        return pb.ListActivitiesResponse(activities=shown, next_page_token=token)

    async def WatchTasks(self, request: pb.WatchTasksRequest, context: Any) -> AsyncIterator[pb.WatchTasksResponse]:
        cursor = (request.cursor.epoch, request.cursor.seq) if request.HasField("cursor") else None
        if cursor and min(cursor) < 0:
            raise invalid("cursor", "must not be negative", "send a cursor that WatchTasks gave, or none")
        self._watchers += 1
        try:
            async for seen in watch(
                self._database, cursor, request.task_id, self._heartbeat_seconds, with_tasks=request.with_tasks
            ):
                yield pb.WatchTasksResponse(
                    cursor=pb.Cursor(epoch=seen.epoch, seq=seen.seq),
                    activity=wire.activity_message(seen.row) if seen.row is not None else None,
                    task=wire.task_message(seen.task) if seen.task is not None else None,
                )
        finally:
            self._watchers -= 1

    async def VerifyLog(self, request: pb.VerifyLogRequest, context: Any) -> pb.VerifyLogResponse:
        async with self._verifying:  # one is as much as a core bears
            return await verify_log(self._database.path)

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:
        return self._policy_message

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        def query(tx: Tx) -> Any:
            return LOG.head(tx), listing.counts(tx), products.count(tx)

        head, counts, number = await self._database.read_in_thread(query)
        return pb.GetStatusResponse(
            version=VERSION,
            policy_version=self._policy.version,
            started_at=to_timestamp(self._started_at),
            head=pb.Cursor(epoch=head.epoch, seq=head.seq),
            counts=[pb.StateCount(state=names.STATES.numbers[state], count=count) for state, count in counts.items()],
            products=number,
            watchers=self._watchers,
        )
