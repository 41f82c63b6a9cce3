"""GatewayService: proto in, one call, proto out."""

from collections.abc import AsyncIterator
from typing import Any

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.gateway.v1.gateway_pb2_grpc import GatewayServiceServicer
from nanoclaw_ipc_gateway.attempts import Attempts
from nanoclaw_ipc_gateway.post import Post
from nanoclaw_ipc_gateway.status import Status
from nanoclaw_ipc_gateway.submissions import Submissions
from nanoclaw_rpc import current_caller


class Servicer(GatewayServiceServicer):
    """Translates; decides nothing."""

    def __init__(self, attempts: Attempts, submissions: Submissions, post: Post, status: Status) -> None:
        self._attempts = attempts
        self._submissions = submissions
        self._post = post
        self._status = status

    async def OpenMailbox(self, request: gateway.OpenMailboxRequest, context: Any) -> gateway.OpenMailboxResponse:
        return await self._attempts.open(current_caller(), request)

    async def CloseMailbox(self, request: gateway.CloseMailboxRequest, context: Any) -> gateway.CloseMailboxResponse:
        return await self._attempts.close(current_caller(), request)

    async def Submit(self, request: gateway.SubmitRequest, context: Any) -> gateway.SubmitResponse:
        return await self._submissions.submit(current_caller(), request)

    async def ListMessages(self, request: gateway.ListMessagesRequest, context: Any) -> gateway.ListMessagesResponse:
        return self._post.list(request)

    async def WatchMessages(
        self, request: gateway.WatchMessagesRequest, context: Any
    ) -> AsyncIterator[gateway.WatchMessagesResponse]:
        async for response in self._post.watch(request):
            yield response

    async def Reply(self, request: gateway.ReplyRequest, context: Any) -> gateway.ReplyResponse:
        return await self._post.reply(current_caller(), request)

    async def ListQuarantine(
        self, request: gateway.ListQuarantineRequest, context: Any
    ) -> gateway.ListQuarantineResponse:
        return self._submissions.quarantined(request)

    async def RetryQuarantined(
        self, request: gateway.RetryQuarantinedRequest, context: Any
    ) -> gateway.RetryQuarantinedResponse:
        return await self._submissions.retry(current_caller(), request)

    async def GetStatus(self, request: gateway.GetStatusRequest, context: Any) -> gateway.GetStatusResponse:
        return self._status.now()
