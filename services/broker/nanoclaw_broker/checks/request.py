"""Checks 2, 3 and 16: who asks, and whether it was asked before."""

from nanoclaw_broker.capability import Capability
from nanoclaw_broker.decision import Decision, Outcome, deny
from nanoclaw_broker.facts import Facts, Signature
from nanoclaw_broker.policy import Check


def credential(facts: Facts, _: Capability | None) -> Decision | None:
    """2. The file was signed with the mailbox's secret."""
    match facts.ask.signature:
        case Signature.VALID:
            return None
        case Signature.MISSING:
            return deny(Check.CREDENTIAL, "SIGNATURE_MISSING", "the request is not signed")
        case _:
            return deny(Check.CREDENTIAL, "SIGNATURE_WRONG", "the request's signature is wrong")


def request_id(facts: Facts, _: Capability | None) -> Decision | None:
    """3. The same request again gets the recorded answer; another one under its id is refused."""
    seen = facts.seen
    if seen is None:
        return None
    if seen.same_request(facts.ask):
        return Decision(Outcome.REPLAY, Check.REQUEST_ID, recorded=seen)
    return deny(
        Check.REQUEST_ID,
        "REQUEST_ID_REUSED",
        "this request_id was used for another request",
        request_id=facts.ask.request_id,
        call_id=seen.call_id,
    )


def idempotency(facts: Facts, capability: Capability | None) -> Decision | None:
    """16. The same key for the same effect gives the recorded answer; for another one it is refused."""
    keyed = facts.keyed
    if keyed is None:
        return None
    if keyed.same_effect(facts.ask):
        return Decision(Outcome.REPLAY, Check.IDEMPOTENCY, recorded=keyed, capability=capability)
    return deny(
        Check.IDEMPOTENCY,
        "IDEMPOTENCY_KEY_REUSED",
        "this idempotency_key was used for another action or other parameters",
        capability,
        call_id=keyed.call_id,
    )
