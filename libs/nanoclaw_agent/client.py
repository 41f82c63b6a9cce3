"""The file client: every request that an agent can make, as a method that answers with data and never raises.

client = Client.from_environment()
answer = client.call("json", "transform", {"input": {"a": 1}, "expression": "a"})
if not answer.ok:
    print(answer.code, answer.next_steps)
"""

import os
from collections.abc import Mapping
from typing import Any

from nanoclaw_agent import wire
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.mailbox import Mailbox, unavailable
from nanoclaw_agent.response import Response

TIMEOUT_SECONDS = 30.0
"""How long an agent waits for an answer. The host ends calls from files within 25 s."""


class Client:
    """One agent's side of its mailbox.

    Each request carries a request_id, under which it is answered, and, inside a dispatch, the trace context of a span
    of its own: from the end of the request before to the moment of writing, so that a trace shows where the agent's
    time went.
    """

    def __init__(
        self, environment: Environment, mailbox: Mailbox | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.environment = environment
        self.mailbox = mailbox or Mailbox(environment.ipc_dir)
        self._timeout = timeout
        self._now_ns = self.mailbox.now_ns
        self._span_start = self._now_ns()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Client":
        """A client of the mailbox that the container was given."""
        return cls(Environment.read(environ))

    # --- governance ---------------------------------------------------------------------------------------------

    def create_task(
        self,
        title: str,
        task_type: str,
        *,
        description: str | None = None,
        priority: str | None = None,
        product: str | None = None,
        product_id: str | None = None,
        scope: str | None = None,
        assigned_group: str | None = None,
        gate: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        id: str | None = None,
    ) -> Response:
        """Creates a task in INBOX. The group main may."""
        return self.request(
            "gov_create",
            title=title,
            description=description,
            task_type=task_type,
            priority=priority,
            product=product,
            product_id=product_id,
            scope=scope,
            assigned_group=assigned_group,
            gate=gate,
            metadata=metadata,
            id=id,
        )

    def transition(
        self, task_id: str, to_state: str, reason: str | None = None, expected_version: int | None = None
    ) -> Response:
        """Moves a task along one edge; to REVIEW the reason is the summary of the work."""
        return self.request(
            "gov_transition", taskId=task_id, toState=to_state, reason=reason, expectedVersion=expected_version
        )

    def approve(self, task_id: str, gate_type: str, notes: str | None = None) -> Response:
        """Approves a task's gate, for what is there to be seen now."""
        return self.request("gov_approve", taskId=task_id, gate_type=gate_type, notes=notes)

    def assign(self, task_id: str, assigned_group: str, executor: str | None = None) -> Response:
        """Assigns the group that will work on a task; `executor` is a note."""
        return self.request("gov_assign", taskId=task_id, assigned_group=assigned_group, executor=executor)

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks that this group sees, from the snapshot `gov_pipeline.json`."""
        tasks = self.mailbox.snapshot("gov_pipeline").get("tasks")
        return [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []

    def task(self, task_id: str) -> dict[str, Any] | None:
        """One of them."""
        return next((task for task in self.tasks() if task.get("id") == task_id), None)

    # --- the outside world --------------------------------------------------------------------------------------

    def call(
        self,
        provider: str,
        action: str,
        params: Mapping[str, Any],
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Asks the broker for one effect, signed. The same idempotency_key with the same parameters executes once."""
        return self.request(
            "ext_call",
            request_id=wire.new_id(self._now_ns(), "ext-"),
            timeout=timeout,
            signed=True,
            provider=provider,
            action=action,
            params=params,
            task_id=task_id,
            idempotency_key=idempotency_key,
        )

    def grant(
        self,
        group_folder: str,
        provider: str,
        access_level: int,
        *,
        allowed_actions: list[str] | None = None,
        denied_actions: list[str] | None = None,
        requires_task_gate: str | None = None,
        product_id: str | None = None,
    ) -> Response:
        """Grants a group access to a provider, levels 0 to 2. The group main may."""
        return self.request(
            "ext_grant",
            group_folder=group_folder,
            provider=provider,
            access_level=access_level,
            allowed_actions=allowed_actions,
            denied_actions=denied_actions,
            requires_task_gate=requires_task_gate,
            product_id=product_id,
        )

    def revoke(self, group_folder: str, provider: str, *, product_id: str | None = None) -> Response:
        """Ends a grant, in force for the next call. The group main may."""
        return self.request("ext_revoke", group_folder=group_folder, provider=provider, product_id=product_id)

    def pending(self, task_id: str | None = None) -> Response:
        """The calls that wait for votes: those that this group may vote on, and its own."""
        return self.request("ext_pending", task_id=task_id)

    def vote(self, approve: bool, call_id: str, params_digest: str, notes: str | None = None) -> Response:
        """Votes on a call that waits for approval, for the parameters that the digest stands for."""
        kind = "ext_approve" if approve else "ext_reject"
        return self.request(kind, call_id=call_id, params_digest=params_digest, notes=notes)

    def capabilities(self) -> dict[str, Any]:
        """What this group may call, from the snapshot `ext_capabilities.json`."""
        return self.mailbox.snapshot("ext_capabilities")

    # --- people and the rest ------------------------------------------------------------------------------------

    def message(self, text: str, *, sender: str | None = None) -> Response | None:
        """Leaves a message for the operator; answers None once it lies there, or why it does not."""
        chat_jid = f"group:{self.environment.group}" if self.environment.group else None
        return self.mailbox.post(
            "messages", self._compose("message", {"chatJid": chat_jid, "text": text, "sender": sender})
        )

    def request(
        self,
        kind: str,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
        signed: bool = False,
        **fields: Any,
    ) -> Response:
        """Makes any request, known here or not, and waits for its answer. Fields that are None are left out."""
        request_id = request_id or wire.new_id(self._now_ns())
        # An ext_call has always named itself first; to the others the member is an addition, and comes last.
        members = {"request_id": request_id, **fields} if signed else {**fields, "request_id": request_id}
        request = self._compose(kind, members)
        if signed:
            try:
                request["sig"] = wire.sign(request, self.mailbox.secret())
            except OSError as error:
                return unavailable(error, request_id)
            except ValueError as error:
                return Response("failed", "INVALID_REQUEST", error=str(error), request_id=request_id)
        answer = self.mailbox.post("tasks", request)
        if answer is None:
            answer = self.mailbox.await_response(request_id, self._timeout if timeout is None else timeout)
        self._span_start = self._now_ns()
        return answer

    def _compose(self, kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        now = self._now_ns()
        request = {"type": kind} | {name: value for name, value in fields.items() if value is not None}
        if trace_id := _trace_id(self.environment.traceparent):
            request["traceparent"] = f"00-{trace_id}-{os.urandom(8).hex()}-01"
            request["span"] = {
                "name": f"agent.{kind}",
                "start": wire.timestamp(self._span_start, 6),
                "end": wire.timestamp(now, 6),
            }
        request["timestamp"] = wire.timestamp(now)
        return request


def _trace_id(traceparent: str) -> str:
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else ""
