"""An act: who does something by which policy, and the facts that came of it, each a row of the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nanoclaw_core.ids import NewId, new_ulid
from nanoclaw_core.principal import Caller
from nanoclaw_governance.policy import Policy
from nanoclaw_governance.tables import LOG
from nanoclaw_governance.task import Task
from nanoclaw_store import Change, Tx


class Fact(NamedTuple):
    """What a span says about a row of the log."""

    action: str
    task: Task
    from_state: str
    to_state: str


@dataclass(slots=True)
class Act:
    """One mutating request under way.

    trace_id: the request's own, for facts that belong to no task. facts: what it has recorded so far; of use once its
    unit is committed.
    """

    caller: Caller
    policy: Policy
    request_ref: str = ""
    trace_id: str = ""
    new_id: NewId = new_ulid
    facts: list[Fact] = field(default_factory=list)
    ran: bool = False
    """False after the fact: a recorded answer was given again."""

    def begin(self) -> None:
        """At the start of each run of the unit: it may run twice."""
        self.ran = True
        self.facts.clear()

    def record(
        self,
        tx: Tx,
        task: Task,
        action: str,
        changes: Sequence[Change] = (),
        *,
        subject: str = "",
        from_state: str = "",
        to_state: str = "",
        reason: str = "",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Appends a fact about the task to the log, in the task's own trace."""
        caller = self.caller
        LOG.append(
            tx,
            action=action,
            principal=caller.principal,
            changes=changes,
            facts=facts,
            task_id=task.id,
            subject=subject,
            from_state=from_state,
            to_state=to_state,
            via=caller.via,
            attempt_id=caller.attempt,
            reason=reason,
            policy_version=self.policy.version,
            request_ref=self.request_ref,
            trace_id=task.traceparent[3:35],
        )
        self.facts.append(Fact(action, task, from_state, to_state))
