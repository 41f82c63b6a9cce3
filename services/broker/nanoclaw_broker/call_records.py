"""Rows of the ledger as they are answered: each with its votes and what became of it; functions that take a tx."""

import sqlite3
from collections.abc import Sequence
from functools import partial

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import calls, messages, pendings, records, settlements, votes
from nanoclaw_broker.ledger import TRANSITIONS, State
from nanoclaw_broker.policy import Level
from nanoclaw_core.errors import invalid, not_found
from nanoclaw_rpc import page, times
from nanoclaw_store import Tx

_CLEARED_UP = frozenset(state.value for state in TRANSITIONS[State.UNKNOWN])
_UNKNOWN, _REST = "unknown", "rest"
"""The two halves of a list that shows UNKNOWN first; its tokens say in which one they are."""


def record(tx: Tx, row: sqlite3.Row) -> pb.CallRecord:
    """One row."""
    was_unknown = row["state"] in _CLEARED_UP
    told = messages.call_record(row, settlements.find(tx, row["call_id"]) if was_unknown else None)
    if row["level"] == Level.L3:
        told.votes.extend(_vote(one) for one in votes.of_call(tx, row["call_id"]))
        asked = pendings.find(tx, row["call_id"])
        if asked is not None and row["state"] == State.AWAITING_APPROVAL.value:
            told.approval_expires_at.CopyFrom(times.to_timestamp(asked["expires_at"]))
    return told


def of_call(tx: Tx, call_id: str) -> pb.CallRecord:
    """That of a call which is there."""
    row = records.by_id(tx, call_id)
    assert row is not None
    return record(tx, row)


def _vote(row: sqlite3.Row) -> pb.Vote:
    return pb.Vote(
        principal=row["principal"],
        approve=bool(row["approve"]),
        notes=row["notes"],
        voted_at=times.to_timestamp(row["voted_at"]),
    )


def get(tx: Tx, request: pb.GetCallRequest, group: str, *, operator_needed: bool) -> pb.GetCallResponse:
    """A call that `group` (empty: everybody) may see. Raises INVALID_FIELD, CALL_NOT_FOUND."""
    if request.call_id:
        row = records.by_id(tx, request.call_id)
    elif request.request_id and group:
        row = records.by_request(tx, group, request.request_id)
    else:
        raise invalid("call_id", "neither it nor group and request_id are given", "name the call; ListCalls tells them")
    if row is None or group not in ("", row["group_name"]):
        field = "call_id" if request.call_id else "request_id"
        raise not_found("call", getattr(request, field), field, records.LISTED)
    answer = calls.answer_of(tx, row["call_id"])
    response = pb.GetCallResponse(call=record(tx, row))
    if answer:
        response.answer.MergeFromString(answer)
    elif row["state"] == State.AWAITING_APPROVAL.value:
        response.answer.CopyFrom(pendings.answer(tx, row["call_id"], operator_needed=operator_needed))
    return response


def list_(tx: Tx, request: pb.ListCallsRequest, group: str) -> pb.ListCallsResponse:
    """A page of those that `group` (empty: everybody) may see. Raises INVALID_FIELD."""
    size, states = page.size(request), messages.states(list(request.states))
    part, edge = _place(request)
    filters = {"group": group, "provider": request.provider, "task_id": request.task_id}
    rows: list[sqlite3.Row] = []
    token = ""
    if part == _UNKNOWN:
        if not states or State.UNKNOWN in states:
            rows = records.page_unknown(tx, edge, size + 1, **filters)
        if len(rows) > size:
            token = page.encode(_UNKNOWN, rows[size - 1]["call_id"])
        part, edge, rows = _REST, "", rows[:size]
    left = size - len(rows)
    if not token:
        wanted = _without_unknown(states) if request.unknown_first else states
        more = partial(records.page, tx, edge, left + 1, states=wanted, **filters)
        rest = more() if wanted or not states else []
        rows += rest[:left]
        if len(rest) > left:
            last = rest[left - 1]["call_id"] if left else ""
            token = page.encode(_REST, last) if request.unknown_first else page.encode(last)
    return pb.ListCallsResponse(calls=[record(tx, row) for row in rows], next_page_token=token)


def _without_unknown(states: Sequence[State]) -> list[State]:
    return [state for state in (states or State) if state is not State.UNKNOWN]


def _place(request: pb.ListCallsRequest) -> tuple[str, str]:
    """In which half a page begins, and after which call."""
    parts = page.decode(request.page_token)
    if not request.unknown_first and len(parts) in (0, 1):
        return _REST, str(parts[0]) if parts else ""
    if request.unknown_first and not parts:
        return _UNKNOWN, ""
    if request.unknown_first and len(parts) == 2 and parts[0] in (_UNKNOWN, _REST):
        return str(parts[0]), str(parts[1])
    raise page.token_invalid("is of another list")
