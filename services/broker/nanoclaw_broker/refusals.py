"""What a caller is told of a decision: a refusal with its way out, and the explanation of either verdict."""

import json

from google.protobuf import json_format

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.answers import MOST_TEXT, level_to_proto
from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, Outcome
from nanoclaw_broker.facts import Facts
from nanoclaw_broker.policy import COUNTED, Level
from nanoclaw_broker.remedy import remedy


def refusal(facts: Facts, decision: Decision, call_id: str = "", *, explaining: bool = False) -> pb.CallResponse:
    """The answer to a call that was denied: facts, and the smallest grant or narrowing that would pass."""
    mended = remedy(facts)
    steps = list(mended.steps)
    if mended.passable and not explaining and decision.code not in COUNTED:
        steps.append("then send it again under a new request_id")
    known = {**what_is_known(facts, decision), "passable": str(mended.passable).lower()}
    if mended.grant is not None:
        known["grant"] = grant_json(mended.grant)
    if mended.wait_until:
        known["retry_at"] = mended.wait_until
    return pb.CallResponse(
        call_id=call_id,
        status=pb.CALL_STATUS_DENIED,
        code=decision.code,
        message=decision.message[:MOST_TEXT],
        facts=known,
        next_steps=steps,
    )


def what_is_known(facts: Facts, decision: Decision) -> dict[str, str]:
    """The facts of a decision, whichever way it went."""
    known = {"check": f"{decision.check.value} {decision.check.name.lower()}", "level_required": facts.level.name}
    if decision.capability is not None:
        known["level_held"] = decision.capability.level.name
        known["capability_id"] = decision.capability.id
    return known | dict(decision.facts)


def grant_json(grant: Capability) -> str:
    """A GrantRequest as JSON, to be sent with a request_id of one's own."""
    request = pb.GrantRequest(
        group=grant.group,
        provider=grant.provider,
        access_level=level_to_proto(grant.level),
        allowed_actions=grant.allowed,
        denied_actions=grant.denied,
        requires_task_gate=grant.requires_task_gate,
        product_id=grant.product_id,
        allow_unverified=grant.allow_unverified,
    )
    members = json_format.MessageToDict(request, preserving_proto_field_name=True)
    return json.dumps(members, ensure_ascii=False, sort_keys=True)


def explanation(facts: Facts, decision: Decision) -> pb.ExplainCallResponse:
    """A decision in words; nothing was written."""
    held = decision.capability.level if decision.capability is not None else Level.L0
    response = pb.ExplainCallResponse(
        allowed=decision.outcome in (Outcome.ALLOW, Outcome.REPLAY),
        code=decision.code,
        message=decision.message,
        check=decision.check.name.lower(),
        check_number=decision.check.value,
        facts=what_is_known(facts, decision),
        level_required=level_to_proto(facts.level),
        level_held=level_to_proto(held),
    )
    if decision.recorded is not None:
        response.message = "the recorded answer would be given, nothing executed"
        response.facts["call_id"] = decision.recorded.call_id
    if not response.allowed:
        denied = refusal(facts, decision, explaining=True)
        response.facts.update(denied.facts)
        response.next_steps.extend(denied.next_steps)
    return response
