"""How people see a call: its row in the ledger, its votes, what its caller was told."""

import json
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli.output import Columns
from nanoclaw_cli.words import CALL_STATES, CALL_STATUSES, LEVELS, SETTLE_OUTCOMES, when

Fields = list[tuple[str, str]]

_OPEN = frozenset({pb.CALL_STATE_AWAITING_APPROVAL, pb.CALL_STATE_PREPARED, pb.CALL_STATE_SENT, pb.CALL_STATE_UNKNOWN})
_MICROS_PER_CENT = 10_000

COLUMNS: Columns = {
    "id": lambda call: call.call_id,
    "when": lambda call: when(call, "created_at"),
    "group": lambda call: call.group,
    "what": lambda call: f"{call.provider}.{call.action}",
    "level": lambda call: LEVELS.word(call.level),
    "state": lambda call: CALL_STATES.word(call.state),
    "code": lambda call: call.code,
    "task": lambda call: call.task_id or "–",
    "ms": lambda call: call.duration_ms,
    "summary": lambda call: call.result_summary or call.params_summary or call.reason,
}


def age(call: pb.CallRecord) -> str:
    """How long ago it was asked for, where that has not ended: `3 h`; empty where it has."""
    if call.state not in _OPEN:
        return ""
    return since(call.created_at)


def since(moment: Timestamp) -> str:
    """How long ago that was: `3 h`."""
    seconds = int((datetime.now(UTC) - moment.ToDatetime(tzinfo=UTC)).total_seconds())
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {word}"
    return f"{max(0, seconds)} s"


def answer_fields(answer: pb.CallResponse) -> Fields:
    """What a caller was told."""
    return [
        ("status", CALL_STATUSES.word(answer.status)),
        ("code", answer.code),
        *_said(answer),
        ("call", answer.call_id),
        ("replayed", "yes, nothing was executed now" if answer.replayed else ""),
    ]


def whole(found: pb.GetCallResponse) -> Fields:
    """A row of the ledger with its votes, and the recorded answer as far as it says more than the row."""
    call, answer = found.call, found.answer
    summary = call.result_summary if call.result_summary != answer.summary else ""
    told = f"{CALL_STATUSES.word(answer.status)}, {answer.code}" if answer.code not in ("", call.code) else ""
    return [
        ("call", call.call_id),
        ("what", " ".join(filter(None, (f"{call.provider}.{call.action}", LEVELS.word(call.level))))),
        ("asked", ", ".join(filter(None, (when(call, "created_at"), age(call) and f"{age(call)} ago")))),
        ("group", call.group),
        ("attempt", call.attempt_id),
        ("task", call.task_id),
        ("product", call.product_id),
        ("parameters", call.params_summary),
        ("state", CALL_STATES.word(call.state)),
        ("code", call.code),
        ("reason", call.reason if not answer.message.startswith(call.reason) else ""),
        ("votes", "\n".join(map(vote_line, call.votes))),
        ("waits until", when(call, "approval_expires_at")),
        ("settled", _settled(call)),
        ("result", summary),
        ("took", f"{call.duration_ms} ms" if call.duration_ms else ""),
        ("cost", f"{call.cost_micros / _MICROS_PER_CENT:.4f} cents" if call.cost_micros else ""),
        ("trace", call.trace_id),
        ("told", told),
        *_said(answer),
    ]


def vote_line(vote: pb.Vote) -> str:
    """Who, which way, when, why."""
    verb = "approved" if vote.approve else "rejected"
    line = " ".join(filter(None, (vote.principal, verb, when(vote, "voted_at"))))
    return f"{line}: {vote.notes}" if vote.notes else line


def pending_fields(one: pb.PendingCall) -> Fields:
    """What a vote is about, for who votes."""
    needed = f"{one.votes_needed} more" + (", an operator's among them" if one.operator_needed else "")
    return [
        ("call", one.call.call_id),
        ("what", f"{one.call.provider}.{one.call.action}"),
        ("asked by", f"{one.call.group}, {age(one.call)} ago"),
        ("task", one.call.task_id),
        ("would do", one.rendered),
        ("votes", "\n".join(map(vote_line, one.call.votes))),
        ("needs", needed),
        ("not by", ", ".join(one.excluded)),
        ("until", when(one.call, "approval_expires_at")),
        ("digest", one.params_digest),
    ]


def _said(answer: pb.CallResponse) -> Fields:
    return [
        ("message", answer.message),
        ("summary", answer.summary),
        ("data", _pretty(answer.data_json)),
        ("facts", "\n".join(f"{name}: {value}" for name, value in sorted(answer.facts.items()))),
        ("next steps", "\n".join(answer.next_steps)),
    ]


def _settled(call: pb.CallRecord) -> str:
    if not call.HasField("settlement"):
        return ""
    one = call.settlement
    line = " ".join(filter(None, (SETTLE_OUTCOMES.word(one.outcome), "by", one.principal, when(one, "settled_at"))))
    return f"{line}: {one.note}" if one.note else line


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2) if text else ""
    except ValueError:
        return text
