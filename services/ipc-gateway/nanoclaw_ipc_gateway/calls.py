"""Requests become calls: each served type, as one RPC to governance or the broker in the name of its group."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway import request as requests
from nanoclaw_ipc_gateway import views
from nanoclaw_ipc_gateway.answer import Answer, executed, not_supported, out_of_time, refused
from nanoclaw_ipc_gateway.mailbox import Origin
from nanoclaw_ipc_gateway.signature import Signature
from nanoclaw_ipc_gateway.words import (
    CALL_STATUSES,
    GATES,
    LEVELS,
    PRIORITIES,
    SCOPES,
    STATES,
    TASK_TYPES,
)
from nanoclaw_rpc import on_behalf

if TYPE_CHECKING:
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub
    from nanoclaw.governance.v1.governance_pb2_grpc import GovernanceServiceAsyncStub


_SIGNATURES = {
    Signature.VALID: broker.Attestation.SIGNATURE_VALID,
    Signature.MISSING: broker.Attestation.SIGNATURE_MISSING,
    Signature.WRONG: broker.Attestation.SIGNATURE_WRONG,
}


MOST_PENDING = 50
"""Calls that wait for votes, in one answer; beyond that a page is ended and no other is read."""


class Incoming(NamedTuple):
    """A well-formed request on its way.

    request_id: of the RPC that follows. The agent's own where it gave one, so that asking again with it is harmless;
    else the ULID of the file. params: an ext_call's parameters as the agent wrote them. deadline: loop time.
    """

    type: str
    body: requests.Request
    origin: Origin
    request_id: str
    deadline: float
    signature: Signature = Signature.MISSING
    params: str = ""


class Calls:
    """The far side: governance and the broker."""

    def __init__(
        self, governance_stub: "GovernanceServiceAsyncStub", broker_stub: "BrokerServiceAsyncStub", seconds: float
    ) -> None:
        """seconds: how long a request may take in all; agents give up at 30."""
        self._governance = governance_stub
        self._broker = broker_stub
        self.seconds = seconds
        self._handlers: dict[str, Callable[[Any, Incoming], Awaitable[Answer]]] = {
            "gov_create": self._create,
            "gov_transition": self._transition,
            "gov_approve": self._approve,
            "gov_assign": self._assign,
            "ext_call": self._call,
            "ext_grant": self._grant,
            "ext_revoke": self._revoke,
            "ext_pending": self._pending,
            "ext_approve": self._vote_for,
            "ext_reject": self._vote_against,
        }

    async def answer(self, incoming: Incoming) -> Answer:
        """What the request comes to; never raises for the far side's sake.

        An outage is waited out as long as the time allows: the same request_id goes out again, and nothing happens
        twice.
        """
        handler = self._handlers.get(incoming.type)
        if handler is None:
            return not_supported(incoming.type)
        try:
            async with asyncio.timeout_at(incoming.deadline):
                return await handler(incoming.body, incoming)
        except TimeoutError:
            return out_of_time(self.seconds, repeatable=incoming.body.request_id is not None)
        except NanoclawError as error:
            return refused(error, incoming.type)

    async def _create(self, body: requests.GovCreate, incoming: Incoming) -> Answer:
        response = await self._governance.CreateTask(
            governance.CreateTaskRequest(
                request_id=incoming.request_id,
                title=body.title,
                description=body.description or "",
                task_type=TASK_TYPES[body.task_type],  # type: ignore[arg-type]
                priority=PRIORITIES.get(body.priority or "", 0),  # type: ignore[arg-type]
                product=body.product or "",
                product_id=body.product_id or "",
                scope=SCOPES.get(body.scope or "", 0),  # type: ignore[arg-type]
                assigned_group=body.assigned_group or "",
                gate=GATES.get(body.gate or "", 0),  # type: ignore[arg-type]
                metadata_json="" if body.metadata is None else json.dumps(body.metadata, ensure_ascii=False),
                id=body.id or "",
            ),
            metadata=_speaker(incoming),
        )
        return executed(views.task(response.task), f"task {response.task.id} created in INBOX")

    async def _transition(self, body: requests.GovTransition, incoming: Incoming) -> Answer:
        response = await self._governance.TransitionTask(
            governance.TransitionTaskRequest(
                request_id=incoming.request_id,
                task_id=body.taskId,
                to_state=STATES[body.toState],  # type: ignore[arg-type]
                reason=body.reason or "",
                expected_version=body.expectedVersion,
            ),
            metadata=_speaker(incoming),
        )
        task = response.task
        summary = f"task {task.id} is in {body.toState}, version {task.version}"
        if not response.changed:
            summary += "; it was there already"
        return executed({**views.task(task), "changed": response.changed}, summary)

    async def _approve(self, body: requests.GovApprove, incoming: Incoming) -> Answer:
        response = await self._governance.ApproveGate(
            governance.ApproveGateRequest(
                request_id=incoming.request_id,
                task_id=body.taskId,
                gate=GATES[body.gate_type],  # type: ignore[arg-type]
                notes=body.notes or "",
            ),
            metadata=_speaker(incoming),
        )
        data = {
            **views.task(response.task),
            "approval": {"id": response.approval.id, "approved_by": response.approval.approved_by},
            "changed": response.changed,
        }
        return executed(data, f"gate {body.gate_type} of task {body.taskId} approved")

    async def _assign(self, body: requests.GovAssign, incoming: Incoming) -> Answer:
        response = await self._governance.AssignTask(
            governance.AssignTaskRequest(
                request_id=incoming.request_id,
                task_id=body.taskId,
                assigned_group=body.assigned_group,
                executor=body.executor or "",
            ),
            metadata=_speaker(incoming),
        )
        data = {**views.task(response.task), "changed": response.changed}
        return executed(data, f"task {body.taskId} assigned to {body.assigned_group}")

    async def _call(self, body: requests.ExtCall, incoming: Incoming) -> Answer:
        response = await self._broker.Call(
            broker.CallRequest(
                request_id=body.request_id,
                provider=body.provider,
                action=body.action,
                params_json=incoming.params,
                task_id=body.task_id or "",
                idempotency_key=body.idempotency_key or "",
                attestation=broker.Attestation(signature=_SIGNATURES[incoming.signature]),
            ),
            metadata=_speaker(incoming),
            timeout=_time_left(incoming),
        )
        status = CALL_STATUSES.get(response.status, "failed")
        return Answer(
            status,
            response.code or "UNKNOWN",
            data=_value(response.data_json),
            summary=response.summary,
            error="" if status == "executed" else response.message or response.code,
            facts={**response.facts, **({"call_id": response.call_id} if response.call_id else {})},
            next_steps=tuple(response.next_steps),
        )

    async def _grant(self, body: requests.ExtGrant, incoming: Incoming) -> Answer:
        response = await self._broker.Grant(
            broker.GrantRequest(
                request_id=incoming.request_id,
                group=body.group_folder,
                provider=body.provider,
                access_level=LEVELS[body.access_level],  # type: ignore[arg-type]
                allowed_actions=body.allowed_actions or (),
                denied_actions=body.denied_actions or (),
                requires_task_gate=body.requires_task_gate or "",
                product_id=body.product_id or "",
            ),
            metadata=_speaker(incoming),
        )
        return executed(
            views.granted(response.capability), f"{body.group_folder} has L{body.access_level} on {body.provider}"
        )

    async def _revoke(self, body: requests.ExtRevoke, incoming: Incoming) -> Answer:
        response = await self._broker.Revoke(
            broker.RevokeRequest(
                request_id=incoming.request_id,
                group=body.group_folder,
                provider=body.provider,
                product_id=body.product_id or "",
            ),
            metadata=_speaker(incoming),
        )
        ended = views.granted(response.capability) if response.HasField("capability") else {}
        left = "no longer has access to" if response.changed else "had no access to"
        return executed({**ended, "changed": response.changed}, f"{body.group_folder} {left} {body.provider}")

    async def _pending(self, body: requests.ExtPending, incoming: Incoming) -> Answer:
        """Page by page: each shows only what concerns the group, so the first ones may show nothing."""
        shown: list[dict[str, Any]] = []
        asked = broker.ListPendingCallsRequest(task_id=body.task_id or "")
        while True:
            page = await self._broker.ListPendingCalls(asked, metadata=_speaker(incoming))
            shown += [views.pending(one) for one in page.calls]
            asked.page_token = page.next_page_token
            if not asked.page_token:
                return executed({"calls": shown}, f"{len(shown)} calls wait for votes")
            if len(shown) >= MOST_PENDING:
                return executed({"calls": shown}, f"{len(shown)} calls wait for votes, and more: name a task_id")

    async def _vote_for(self, body: requests.ExtVote, incoming: Incoming) -> Answer:
        response = await self._broker.ApproveCall(
            broker.ApproveCallRequest(request_id=incoming.request_id, **_vote(body)),
            metadata=_speaker(incoming),
            timeout=_time_left(incoming),
        )
        data = views.voted(response.call)
        if not response.HasField("outcome"):
            return executed(data, f"voted for call {body.call_id}; it waits for another vote")
        outcome = response.outcome
        data["outcome"] = {
            "status": CALL_STATUSES.get(outcome.status, "failed"),
            "code": outcome.code,
            "summary": outcome.summary,
            "error": outcome.message,
        }
        return executed(data, f"voted for call {body.call_id}; it was carried out: {outcome.code}")

    async def _vote_against(self, body: requests.ExtVote, incoming: Incoming) -> Answer:
        response = await self._broker.RejectCall(
            broker.RejectCallRequest(request_id=incoming.request_id, **_vote(body)), metadata=_speaker(incoming)
        )
        return executed(views.voted(response.call), f"voted against call {body.call_id}; it is over")


def _vote(body: requests.ExtVote) -> dict[str, str]:
    return {"call_id": body.call_id, "params_digest": body.params_digest, "notes": body.notes or ""}


def _time_left(incoming: Incoming) -> float:
    """The broker is left half a second to say itself that time ran out."""
    return max(0.1, incoming.deadline - asyncio.get_running_loop().time() - 0.5)


def _value(text: str) -> Any:
    """The JSON value that an action answered; what is none is passed on as text, since the effect has happened."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _speaker(incoming: Incoming) -> tuple[tuple[str, str], ...]:
    return on_behalf(incoming.origin.group, incoming.origin.attempt_id)
