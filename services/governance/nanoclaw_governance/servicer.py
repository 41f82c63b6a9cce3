"""The RPCs: proto in, one call, proto out. Here those about tasks; the others beside it."""

from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_governance import (
    approvals,
    asks,
    attempts,
    contexts,
    edits,
    explanation,
    listing,
    names,
    tasks,
    transitions,
    wire,
)
from nanoclaw_governance.act import Act
from nanoclaw_governance.log_rpcs import LogRpcs
from nanoclaw_governance.product_rpcs import ProductRpcs
from nanoclaw_governance.reading import require_task
from nanoclaw_rpc import current_caller, page
from nanoclaw_store import Tx
from nanoclaw_telemetry import TraceContext


class Governance(ProductRpcs, LogRpcs):
    """nanoclaw.governance.v1.GovernanceService over one database."""

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Any) -> pb.CreateTaskResponse:
        draft, traceparent = asks.draft_of(request), TraceContext.new().traceparent

        def create(tx: Tx, act: Act) -> pb.CreateTaskResponse:
            return pb.CreateTaskResponse(task=wire.task_message(tasks.create(tx, act, draft, traceparent)))

        return await self._write(request, create)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.GetTaskResponse:
        caller = current_caller()
        task = tasks.shown(self._database.one(tasks.WITH_ID, task_id=request.task_id), request.task_id, caller)
        return pb.GetTaskResponse(task=wire.task_message(task))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        caller, wanted = current_caller(), asks.filter_of(request)
        (updated_at, task_id), most = page.after(request, "", ""), page.size(request)

        def query(tx: Tx) -> tuple[list[pb.Task], listing.Glimpse | None]:
            return self._messages.page(tx, wanted, caller, (updated_at, task_id), most)

        read_here = wanted.is_indexed and caller.group in ("", "main")
        found, last = self._database.read(query) if read_here else await self._database.read_in_thread(query)
        return pb.ListTasksResponse(tasks=found, next_page_token=page.encode(last.updated_at, last.id) if last else "")

    async def UpdateTask(self, request: pb.UpdateTaskRequest, context: Any) -> pb.UpdateTaskResponse:
        wanted, expected = asks.details_of(request), asks.optional(request, "expected_version")

        def update(tx: Tx, act: Act) -> pb.UpdateTaskResponse:
            task, changed = edits.update(tx, act, request.task_id, expected, wanted)
            return pb.UpdateTaskResponse(task=wire.task_message(task), changed=changed)

        return await self._write(request, update)

    async def AssignTask(self, request: pb.AssignTaskRequest, context: Any) -> pb.AssignTaskResponse:
        wanted, expected = asks.assignment_of(request), asks.optional(request, "expected_version")

        def assign(tx: Tx, act: Act) -> pb.AssignTaskResponse:
            task, changed = edits.assign(tx, act, request.task_id, expected, wanted)
            return pb.AssignTaskResponse(task=wire.task_message(task), changed=changed)

        return await self._write(request, assign)

    async def TransitionTask(self, request: pb.TransitionTaskRequest, context: Any) -> pb.TransitionTaskResponse:
        wanted = asks.move_of(request)
        binding = asks.binding_of(request, current_caller())

        def move(tx: Tx, act: Act) -> pb.TransitionTaskResponse:
            task, changed = transitions.move(tx, act, request.task_id, wanted)
            if binding is not None:
                task = attempts.bind(tx, act, task.id, binding)
            return pb.TransitionTaskResponse(task=wire.task_message(task), changed=changed)

        return await self._write(request, move)

    async def ExplainTransition(
        self, request: pb.ExplainTransitionRequest, context: Any
    ) -> pb.ExplainTransitionResponse:
        caller, wanted = current_caller(), asks.move_of(request)
        subject = explanation.subject_of(request.as_principal, caller)
        found = self._database.read(
            lambda tx: transitions.explain_move(tx, caller, subject, self._policy, request.task_id, wanted)
        )
        return pb.ExplainTransitionResponse(
            allowed=found.allowed,
            would_change=found.would_change,
            violations=[wire.violation_message(violation) for violation in found.violations],
            next_steps=found.next_steps,
            permitted_principals=found.permitted,
        )

    async def ApproveGate(self, request: pb.ApproveGateRequest, context: Any) -> pb.ApproveGateResponse:
        gate = names.GATES.required("gate", request.gate)
        expected = asks.optional(request, "expected_version")

        def approve(tx: Tx, act: Act) -> pb.ApproveGateResponse:
            approval, task, changed = approvals.approve(tx, act, request.task_id, gate, request.notes, expected)
            return pb.ApproveGateResponse(
                approval=wire.approval_message(approval), task=wire.task_message(task), changed=changed
            )

        return await self._write(request, approve)

    async def ListApprovals(self, request: pb.ListApprovalsRequest, context: Any) -> pb.ListApprovalsResponse:
        caller, (start,), most = current_caller(), page.after(request, ""), page.size(request)
        require_task(request, caller)

        def query(tx: Tx) -> Any:
            version = tasks.find(tx, request.task_id, caller).version if request.task_id else 0
            return version, approvals.page(tx, request.task_id, request.live_only, start, most + 1)

        version, found = self._database.read(query)
        shown, token = page.cut(found, most, wire.approval_message, lambda approval: (approval.id,))
        return pb.ListApprovalsResponse(approvals=shown, next_page_token=token, task_version=version)

    async def AddEvidence(self, request: pb.AddEvidenceRequest, context: Any) -> pb.AddEvidenceResponse:
        expected = asks.optional(request, "expected_version")

        def add(tx: Tx, act: Act) -> pb.AddEvidenceResponse:
            task = edits.add_evidence(tx, act, request.task_id, expected, request.link, request.note)
            return pb.AddEvidenceResponse(task=wire.task_message(task))

        return await self._write(request, add)

    async def SetChecklist(self, request: pb.SetChecklistRequest, context: Any) -> pb.SetChecklistResponse:
        wanted, expected = asks.checklist_of(request), asks.optional(request, "expected_version")

        def put(tx: Tx, act: Act) -> pb.SetChecklistResponse:
            task, changed = edits.set_checklist(tx, act, request.task_id, expected, wanted)
            return pb.SetChecklistResponse(task=wire.task_message(task), changed=changed)

        return await self._write(request, put)

    async def OverrideTask(self, request: pb.OverrideTaskRequest, context: Any) -> pb.OverrideTaskResponse:
        wanted, expected = asks.pass_of(request), asks.optional(request, "expected_version")
        traceparent = TraceContext.new().traceparent

        def override(tx: Tx, act: Act) -> pb.OverrideTaskResponse:
            task, follow_up = edits.override(tx, act, request.task_id, expected, wanted, traceparent)
            return pb.OverrideTaskResponse(task=wire.task_message(task), follow_up=wire.task_message(follow_up))

        return await self._write(request, override)

    async def GetContextPack(self, request: pb.GetContextPackRequest, context: Any) -> pb.GetContextPackResponse:
        caller = current_caller()
        found = self._database.read(lambda tx: contexts.read(tx, request.task_id, caller))
        calls, unavailable = await contexts.external_calls(self._list_calls, request.task_id)
        return pb.GetContextPackResponse(
            product=wire.product_message(found.product) if found.product else None,
            task=wire.task_message(found.task),
            execution_summary=found.task.review_summary,
            evidence=wire.evidence_messages(found.task),
            activities=contexts.newest([wire.activity_message(row) for row in found.activities]),
            approvals=contexts.newest([wire.approval_message(approval) for approval in found.approvals]),
            external_calls=calls,
            external_calls_unavailable=unavailable,
        )

    async def BindAttempt(self, request: pb.BindAttemptRequest, context: Any) -> pb.BindAttemptResponse:
        def bind(tx: Tx, act: Act) -> pb.BindAttemptResponse:
            binding = attempts.Binding(request.group, request.attempt_id, request.fence)
            task = attempts.bind(tx, act, request.task_id, binding)
            return pb.BindAttemptResponse(task=wire.task_message(task))

        return await self._write(request, bind)
