"""What is counted, logged and traced of every call, whichever way it came."""

import time

import structlog

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.broker import Told
from nanoclaw_broker.decision import Outcome
from nanoclaw_core.principal import Caller
from nanoclaw_telemetry import Telemetry, TraceContext

log = structlog.get_logger()


def said(request: pb.CallRequest, told: Told) -> dict[str, str]:
    """A call and its decision, in words that may be shown."""
    return {
        "provider": request.provider,
        "action": request.action,
        "decision": told.ruling.decision.outcome.value,
        "call_id": told.response.call_id,
    }


class Observer:
    """Tells the metrics, the log and the trace."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._calls = telemetry.counter("nanoclaw_broker_calls", "calls by answer", ["provider", "code"])

    def observe(self, caller: Caller, request: pb.CallRequest, told: Told, trace: TraceContext, start_ns: int) -> None:
        """Once a call has ended. trace: that of who asked."""
        decision, response, facts = told.ruling.decision, told.response, told.ruling.facts
        known, words = bool(facts.skill.levels), said(request, told)
        self._calls.labels(request.provider if known else "unknown", response.code).inc()
        if decision.outcome is Outcome.DENY:
            log.warning("call_denied", group=caller.group, check=decision.check.value, answer=response.code, **words)
        elif decision.outcome is Outcome.AWAIT:
            log.info("call_waits_for_votes", group=caller.group, answer=response.code, **words)
        if not self._telemetry.enabled:
            return
        shown = {
            **words,
            "principal": caller.principal,
            "task": request.task_id,
            "level": facts.level.name,
            "check": decision.check.name.lower(),
            "reason": decision.code,
            "code": response.code,
        }
        self._telemetry.emit(
            "broker.call",
            trace.child(),
            parent=trace,
            start_ns=start_ns,
            end_ns=time.time_ns(),
            attributes={f"nanoclaw.{name}": value for name, value in shown.items() if value},
            error="" if response.status == pb.CALL_STATUS_EXECUTED else response.code,
        )
