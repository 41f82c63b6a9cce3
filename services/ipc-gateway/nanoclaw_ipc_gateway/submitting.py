"""Requests that come by RPC instead of as a file: on the same path, under an identity that a repetition finds again."""

from hashlib import sha256

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_core.errors import Kind, NanoclawError, denied
from nanoclaw_core.ids import check_request_id
from nanoclaw_ipc_gateway import request as requests
from nanoclaw_ipc_gateway.reading import TYPES
from nanoclaw_ipc_gateway.strict_json import read_object

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VOTES = frozenset({"gov_approve", "ext_approve", "ext_reject"})


def identity(principal: str, request_id: str) -> str:
    """The ULID-shaped identity of a submitted request: the same for the same principal and request_id."""
    value = int.from_bytes(sha256(f"{principal}\n{check_request_id(request_id)}".encode()).digest()[:16], "big")
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -5, -5))


def digest(request: gateway.SubmitRequest) -> str:
    """What a repetition must agree in: the content."""
    return sha256(request.content).hexdigest()


def check_powers(content: bytes) -> None:
    """Who submits speaks in a group's name, and must not approve or finish in it what is theirs to judge as themselves.

    Raises DENIED SUBMIT_MAY_NOT_APPROVE. What is no request at all passes: it will be answered as such.
    """
    try:
        kind, body = requests.parse(read_object(content), TYPES["submit"])
    except NanoclawError:
        return
    if kind in _VOTES or (isinstance(body, requests.GovTransition) and body.toState == "DONE"):
        raise denied(
            "SUBMIT_MAY_NOT_APPROVE",
            f"{kind} can't be submitted in a group's name",
            "approve as yourself, with governance's ApproveGate and TransitionTask",
            type=kind,
        )


def reused(request_id: str) -> NanoclawError:
    """The same request_id came with another content."""
    return NanoclawError(
        Kind.INVALID,
        "REQUEST_ID_REUSED",
        f"request_id {request_id!r} was used for another request",
        next_step="send a new unique request_id",
        request_id=request_id,
    )
