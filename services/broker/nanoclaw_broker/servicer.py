"""nanoclaw.broker.v1.BrokerService: protos in, one call, protos out."""

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw.broker.v1 import broker_pb2_grpc
from nanoclaw_broker import breakers, call_records, messages, records, settlements
from nanoclaw_broker.access import ACCESS
from nanoclaw_broker.broker import Broker
from nanoclaw_broker.decision import Outcome
from nanoclaw_broker.grants import Grants
from nanoclaw_broker.kill_switch import KillSwitch
from nanoclaw_broker.observing import Observer, said
from nanoclaw_broker.pending_list import PendingList
from nanoclaw_broker.policy import POLICY_VERSION
from nanoclaw_broker.relaying import Relaying
from nanoclaw_broker.settling import Settling
from nanoclaw_broker.visibility import explained_group, visible_group
from nanoclaw_broker.voting import Voting
from nanoclaw_core import VERSION
from nanoclaw_rpc import ServiceSpec, current_caller, current_trace, mark_replayed, note, page, times


class BrokerServicer(broker_pb2_grpc.BrokerServiceServicer):
    """Translates; decides nothing."""

    def __init__(
        self,
        broker: Broker,
        grants: Grants,
        kill_switch: KillSwitch,
        voting: Voting,
        pending: PendingList,
        relaying: Relaying,
        observer: Observer,
        started_at: str,
    ) -> None:
        self._broker = broker
        self._grants = grants
        self._settling = Settling(broker.database)
        self._kill_switch = kill_switch
        self._relaying = relaying
        self._observer = observer
        self._voting = voting
        self._pending = pending
        self._started_at = started_at

    async def Call(self, request: pb.CallRequest, context: Any) -> pb.CallResponse:
        caller, trace, start_ns = current_caller(), current_trace(), time.time_ns()
        told = await self._broker.call(caller, request, trace)
        note(**said(request, told), access_level=told.ruling.facts.level.name, answer=told.response.code)
        if told.ruling.decision.outcome is Outcome.REPLAY:
            mark_replayed()
        self._observer.observe(caller, request, told, trace, start_ns)
        return told.response

    async def ExplainCall(self, request: pb.ExplainCallRequest, context: Any) -> pb.ExplainCallResponse:
        caller = current_caller()
        return await self._broker.explain(caller, explained_group(caller, request.group), request)

    async def GetCall(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        return await self._voting.look_up(request, visible_group(current_caller(), request.group))

    async def ListCalls(self, request: pb.ListCallsRequest, context: Any) -> pb.ListCallsResponse:
        group = visible_group(current_caller(), request.group)
        return self._broker.database.read(partial(call_records.list_, request=request, group=group))

    async def ListPendingCalls(self, request: pb.ListPendingCallsRequest, context: Any) -> pb.ListPendingCallsResponse:
        return await self._pending.page(current_caller(), request)

    async def ApproveCall(self, request: pb.ApproveCallRequest, context: Any) -> pb.ApproveCallResponse:
        return await self._voting.approve(current_caller(), request, current_trace().trace_id)

    async def RejectCall(self, request: pb.RejectCallRequest, context: Any) -> pb.RejectCallResponse:
        return await self._voting.reject(current_caller(), request, current_trace().trace_id)

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:
        return await self._settling.settle(current_caller(), request, current_trace().trace_id)

    async def Grant(self, request: pb.GrantRequest, context: Any) -> pb.GrantResponse:
        return await self._grants.grant(current_caller(), request, current_trace().trace_id)

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        return await self._grants.revoke(current_caller(), request, current_trace().trace_id)

    async def Freeze(self, request: pb.FreezeRequest, context: Any) -> pb.FreezeResponse:
        return await self._kill_switch.freeze(current_caller(), request, current_trace().trace_id)

    async def Unfreeze(self, request: pb.UnfreezeRequest, context: Any) -> pb.UnfreezeResponse:
        return await self._kill_switch.unfreeze(current_caller(), request, current_trace().trace_id)

    async def ListFreezes(self, request: pb.ListFreezesRequest, context: Any) -> pb.ListFreezesResponse:
        size, (scope, name) = page.size(request), page.after(request, "", "")
        rows = self._kill_switch.page((scope, name), size + 1)
        shown, token = page.cut(rows, size, messages.call_freeze, lambda row: (row["scope"], row["name"]))
        return pb.ListFreezesResponse(freezes=shown, next_page_token=token)

    async def ListCapabilities(self, request: pb.ListCapabilitiesRequest, context: Any) -> pb.ListCapabilitiesResponse:
        caller, registry, size = current_caller(), self._broker.registry, page.size(request)
        group = visible_group(caller, request.group or caller.group)
        (first, second, third) = page.after(request, "", "", "")
        rows, now = self._grants.page(
            group, (first, second, third), size + 1, include_inactive=request.include_inactive
        )
        shown, token = page.cut(
            rows,
            size,
            lambda found: messages.group_capability(found[0], now, registry.get(found[0]["provider"]), found[1]),
            lambda found: tuple(found[0][name] for name in _KEY),
        )
        return pb.ListCapabilitiesResponse(
            capabilities=shown,
            providers_available=[one.name for one in registry.providers if not registry.missing_secrets(one)],
            next_page_token=token,
        )

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        size, (after,), registry = page.size(request), page.after(request, ""), self._broker.registry
        shown, token = page.cut(
            [one for one in registry.providers if one.name > after],
            size,
            lambda one: messages.provider(one, registry.missing_secrets(one), registry.secrets),
            lambda one: (one.name,),
        )
        return pb.ListProvidersResponse(providers=shown, next_page_token=token)

    async def WatchCapabilities(
        self, request: pb.WatchCapabilitiesRequest, context: Any
    ) -> AsyncIterator[pb.WatchCapabilitiesResponse]:
        async for revision in self._grants.revisions():
            yield pb.WatchCapabilitiesResponse(revision=revision)

    async def OpenRelay(self, request: pb.OpenRelayRequest, context: Any) -> pb.OpenRelayResponse:
        return await self._relaying.open(current_caller(), request, current_trace().trace_id)

    async def CloseRelay(self, request: pb.CloseRelayRequest, context: Any) -> pb.CloseRelayResponse:
        return await self._relaying.close(current_caller(), request, current_trace().trace_id)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        counts, oldest, circuits, now = await self._broker.database.read_in_thread(
            lambda tx: (records.counts(tx), settlements.oldest_unknown(tx), breakers.not_closed(tx), tx.now)
        )
        return pb.GetStatusResponse(
            version=VERSION,
            policy_version=POLICY_VERSION,
            started_at=times.to_timestamp(self._started_at),
            counts=[
                pb.CallStateCount(state=messages.state_to_proto(state), count=count)
                for state, count in sorted(counts.items())
            ],
            providers=self._broker.registry.names,
            breakers=[messages.breaker(circuit, now) for circuit in circuits],
            oldest_unknown_at=times.to_timestamp(oldest) if oldest else None,
            freezes=[messages.call_freeze(row) for row in self._kill_switch.page(("", ""), page.MOST)],
            secrets=self._broker.registry.secrets if current_caller().kind == "operator" else (),
        )


_KEY = ("group_name", "provider", "product_id")


def spec(servicer: BrokerServicer) -> ServiceSpec:
    """The service as the server takes it."""
    return ServiceSpec(
        "nanoclaw.broker.v1.BrokerService", broker_pb2_grpc.add_BrokerServiceServicer_to_server, servicer, ACCESS
    )
