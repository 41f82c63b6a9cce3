"""How a call may end, whatever the other side answers: what every test of hostile replies asks of every answer."""

import re

from planted import found

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.answers import MOST_BYTES, MOST_TEXT


def check(answer: pb.CallResponse, secret: str, *, mutating: bool) -> None:
    """Done, failed with a code, or without a reply, which is UNKNOWN for what changes something; small; no secret told.

    An exception that got out of a provider shows as PROVIDER_ERROR, or as an action that broke off.
    """
    assert re.fullmatch("[A-Z][A-Z0-9_]+", answer.code), answer
    assert answer.code not in ("PROVIDER_ERROR", "UNDER_WAY"), answer
    assert "broke off" not in answer.message, answer
    if answer.status == pb.CALL_STATUS_EXECUTED:
        assert answer.code == "OK", answer
    elif answer.status == pb.CALL_STATUS_TIMEOUT:
        assert answer.code == ("EFFECT_UNKNOWN" if mutating else "NO_REPLY"), answer
    else:
        assert answer.status == pb.CALL_STATUS_FAILED, answer
        assert answer.next_steps, answer
    assert len(answer.data_json.encode()) <= MOST_BYTES
    assert max(map(len, (answer.message, answer.summary, *answer.facts.values(), *answer.next_steps))) <= MOST_TEXT
    # The whole of it: a damaged reply may hold a piece, and pieces are not recognised (I8).
    assert found({"secret": secret}, {"answer": str(answer), "data": answer.data_json}, whole=True) == []
