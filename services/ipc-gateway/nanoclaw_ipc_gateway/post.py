"""Words between agents and people: listed, watched, replied to."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError, invalid
from nanoclaw_core.ids import check_group, check_request_id
from nanoclaw_core.principal import Caller
from nanoclaw_ipc_gateway import messages
from nanoclaw_ipc_gateway.replies import Replies
from nanoclaw_ipc_gateway.tables import LOG
from nanoclaw_rpc import current_trace, page
from nanoclaw_store import Database, Idempotency, Tx

HEARTBEAT_SECONDS = 10.0
MOST_TEXT = 64 * 1024
_BATCH = 100


class Post:
    """ListMessages, WatchMessages and Reply."""

    def __init__(self, database: Database, replies: Replies, idempotency: Idempotency) -> None:
        self._database = database
        self._replies = replies
        self._idempotency = idempotency

    def list(self, request: gateway.ListMessagesRequest) -> gateway.ListMessagesResponse:
        """Messages and replies, oldest first."""
        most, (after,) = page.size(request), page.after(request, 0)
        rows = self._database.read(
            partial(messages.page, after_seq=after, group=request.group, task_id=request.task_id, most=most + 1)
        )
        shown, token = page.cut(rows, most, messages.to_proto, lambda row: (row["seq"],))
        return gateway.ListMessagesResponse(messages=shown, next_page_token=token)

    async def watch(self, request: gateway.WatchMessagesRequest) -> AsyncIterator[gateway.WatchMessagesResponse]:
        """Messages past a cursor as they come; a heartbeat with the head when there are none for a while.

        Raises INVALID CURSOR_INVALID for a cursor beyond the head.
        """
        head = self._database.read(messages.head)
        seq = request.after_seq if request.HasField("after_seq") else head
        if not 0 <= seq <= head:
            raise NanoclawError(
                Kind.INVALID,
                "CURSOR_INVALID",
                f"after_seq: there is no message {seq}",
                next_step="watch from 0, or from the head",
                head_seq=head,
            )
        while True:
            commits = self._database.commits
            rows = self._database.read(partial(messages.after, seq=seq, most=_BATCH))
            for row in rows:
                seq = row["seq"]
                yield gateway.WatchMessagesResponse(seq=seq, message=messages.to_proto(row))
            if not rows and not await self._news(commits, seq):
                yield gateway.WatchMessagesResponse(seq=seq)

    async def _news(self, commits: int, seq: int) -> bool:
        """Waits until there are messages past `seq`; False if there were none for the time of a heartbeat."""
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                while self._database.read(messages.head) <= seq:
                    commits = await self._database.wait_commit(commits)
        except TimeoutError:
            return False
        return True

    async def reply(self, caller: Caller, request: gateway.ReplyRequest) -> gateway.ReplyResponse:
        """Puts an input file before the sender of a message, or before a group. Raises MESSAGE_NOT_FOUND."""
        check_request_id(request.request_id)
        if not request.text or len(request.text.encode()) > MOST_TEXT:
            raise invalid("text", f"must have 1 to {MOST_TEXT} bytes", "send the text of the reply")
        if bool(request.message_id) == bool(request.group):
            raise invalid("message_id", "is given besides group, or neither is", "send one of the two")
        group, attempt_id = request.group, ""
        if request.message_id:
            asked = self._database.read(partial(messages.find, message_id=request.message_id))
            group, attempt_id = asked["group_name"], asked["attempt_id"]
        to = self._replies.addressee(check_group("group", group), attempt_id)
        staged = self._replies.stage(to, request.text, request.message_id, caller.principal)
        trace_id = current_trace().trace_id

        def unit(tx: Tx) -> gateway.ReplyResponse:
            changes = messages.add(tx, staged)
            LOG.append(
                tx, action="reply", principal=caller.principal, changes=changes, task_id=to.task_id, subject=staged.id,
                attempt_id=to.attempt_id, request_ref=request.request_id, trace_id=trace_id,
            )  # fmt: skip
            return gateway.ReplyResponse(message=messages.to_proto(messages.find(tx, staged.id)))

        try:
            response = await self._idempotency.run(caller.principal, request, unit)
        except NanoclawError:
            self._replies.withdraw(staged)
            raise
        if response.message.id == staged.id:
            self._replies.deliver(staged)
        else:  # this request was answered before; that reply is there, or on its way
            self._replies.withdraw(staged)
        return response
