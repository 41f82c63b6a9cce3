"""`nanoclaw calls`: what goes out, as it happens; what waits for votes, voted on; what nobody knows, settled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli import call as one_call
from nanoclaw_cli.channels import PAGE, broker, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, say_line, show, show_list
from nanoclaw_cli.words import CALL_STATES, CALL_STATUSES, SETTLE_OUTCOMES, when
from nanoclaw_core.errors import Kind, NanoclawError, not_found

if TYPE_CHECKING:  # only the type stubs have these
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub

app = typer.Typer(help="Calls through the broker: follow them, vote on them, settle them.")

POLL_SECONDS = 1.0
_OPEN = frozenset({pb.CALL_STATE_AWAITING_APPROVAL, pb.CALL_STATE_PREPARED, pb.CALL_STATE_SENT, pb.CALL_STATE_UNKNOWN})

Call = Annotated[str, typer.Argument(metavar="CALL", help="The call's id, as `calls pending` shows it.")]
Digest = Annotated[str, typer.Option(help="Only if this is its digest: what you looked at before.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Notes = Annotated[str, typer.Option("--notes", "-n", help="Kept with the vote.")]


def age(call: pb.CallRecord) -> str:
    """How long ago it was asked for, where that has not ended: `3 h`; empty where it has."""
    if call.state not in _OPEN:
        return ""
    seconds = int((datetime.now(UTC) - call.created_at.ToDatetime(tzinfo=UTC)).total_seconds())
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {word}"
    return f"{max(0, seconds)} s"


COLUMNS: Columns = {"age": age, **one_call.COLUMNS}


@command(app, bare=True)
async def calls(
    group: Annotated[str, typer.Option("--group", "-g")] = "",
    provider: Annotated[str, typer.Option()] = "",
    task: Annotated[str, typer.Option()] = "",
    state: Annotated[list[int] | None, CALL_STATES.option(help="Any of these; repeat it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones, until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option(min=0)] = 50,
) -> None:
    """The effect ledger: first what ended UNKNOWN, oldest first, then the rest, newest first."""
    filters: dict[str, Any] = {"group": group, "provider": provider, "task_id": task, "states": state or []}
    async with broker() as stub:
        found = await pages(stub.ListCalls, pb.ListCallsRequest(unknown_first=True, **filters), "calls", limit)
        if not follow:
            show_list(found, COLUMNS, "no calls")
            return
        for one in reversed(found):
            _say(one)
        await _follow(stub, filters, {one.call_id: one.state for one in found})


async def _follow(stub: "BrokerServiceAsyncStub", filters: dict[str, Any], seen: dict[str, int]) -> None:
    """Says each call that is new or in another state than before, of the newest; goes on when the broker restarts."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        try:
            newest = (await stub.ListCalls(pb.ListCallsRequest(page_size=PAGE, **filters))).calls
        except NanoclawError as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise
            continue
        for one in reversed(newest):
            if seen.get(one.call_id) != one.state:
                _say(one)
        seen.update({one.call_id: one.state for one in newest})


def _say(one: pb.CallRecord) -> None:
    if current().as_json:
        say_line(one)
        return
    words = (CALL_STATES.word(one.state), one.code, f"{one.provider}.{one.action}", f"group:{one.group}")
    rest = one.result_summary or one.params_summary or one.reason
    say("  ".join((when(one, "created_at"), one.call_id, *filter(None, (*words, one.task_id, rest)))))


@command(app)
async def pending(
    group: Annotated[str, typer.Option("--group", "-g", help="Asked for by this group.")] = "",
    task: Annotated[str, typer.Option(help="For this task.")] = "",
) -> None:
    """What waits for votes, as an approver sees it: what would happen, until when, and who may not vote."""
    async with broker() as stub:
        found = await pages(stub.ListPendingCalls, pb.ListPendingCallsRequest(group=group, task_id=task), "calls", 0)
    if current().as_json:
        say_json(found)
    elif not found:
        say("nothing waits for votes")
    for one in found if not current().as_json else ():
        show(one, _fields(one), "")
        say("")


def _fields(one: pb.PendingCall) -> list[tuple[str, str]]:
    cast = [vote.principal + (f" ({vote.notes})" if vote.notes else "") for vote in one.call.votes]
    needed = f"{one.votes_needed} more" + (", an operator's among them" if one.operator_needed else "")
    return [
        ("call", one.call.call_id),
        ("what", f"{one.call.provider}.{one.call.action}"),
        ("asked by", f"{one.call.group}, {age(one.call)} ago"),
        ("task", one.call.task_id),
        ("would do", one.rendered),
        ("votes", ", ".join(cast)),
        ("needs", needed),
        ("not by", ", ".join(one.excluded)),
        ("until", when(one.call, "approval_expires_at")),
        ("digest", one.params_digest),
    ]


@asynccontextmanager
async def _looked_at(call_id: str, digest: str, verb: str, yes: bool) -> AsyncIterator[tuple[Any, str]]:
    """Shows what a vote is about and asks; a stub and the digest of what was shown. Raises CALL_NOT_FOUND."""
    if current().as_json and not yes:
        raise typer.BadParameter("--json answers programs, which can't be asked: say --yes as well")
    async with broker() as stub:
        found = await pages(stub.ListPendingCalls, pb.ListPendingCallsRequest(), "calls", 0)
        one = next((one for one in found if one.call.call_id == call_id), None)
        if one is None:
            state = (await stub.GetCall(pb.GetCallRequest(call_id=call_id))).call.state
            raise not_found("pending call", f"{call_id}, which is {CALL_STATES.word(state)}")
        if digest not in ("", one.params_digest):
            raise typer.BadParameter(f"its digest is {one.params_digest}: not what you looked at")
        if not current().as_json:
            show(one, _fields(one), "")
        if not yes:
            typer.confirm(f"{verb} it?", abort=True)
        yield stub, one.params_digest


@command(app, mutates=True)
async def approve(call_id: Call, notes: Notes = "", digest: Digest = "", yes: Yes = False) -> None:
    """Shows what would happen, asks, and votes for it. Exit code 1 where it was carried out and did not work."""
    async with _looked_at(call_id, digest, "Approve", yes) as (stub, shown):
        request = pb.ApproveCallRequest(
            request_id=current().request_id, call_id=call_id, params_digest=shown, notes=notes
        )
        answer = await stub.ApproveCall(request, timeout=60.0)
    if not answer.HasField("outcome"):
        show(answer, [("state", CALL_STATES.word(answer.call.state))], "voted; it waits for another vote")
        return
    show(answer, one_call.fields(answer.outcome), "voted; it was the last vote that it took")
    if CALL_STATUSES.word(answer.outcome.status) != "executed":
        raise typer.Exit(1)


@command(app, mutates=True)
async def reject(call_id: Call, notes: Notes = "", digest: Digest = "", yes: Yes = False) -> None:
    """Shows what would happen, asks, and votes against it, which ends it."""
    async with _looked_at(call_id, digest, "Reject", yes) as (stub, shown):
        request = pb.RejectCallRequest(
            request_id=current().request_id, call_id=call_id, params_digest=shown, notes=notes
        )
        answer = await stub.RejectCall(request)
    show(answer, [("call", answer.call.call_id), ("reason", answer.call.reason)], "rejected")


@command(app, mutates=True)
async def settle(
    call_id: Call,
    outcome: Annotated[int, SETTLE_OUTCOMES.argument()],
    note: Annotated[str, typer.Option("--note", "-n", help="How it is known; kept in the log.")],
) -> None:
    """Says what became of a call that ended UNKNOWN. For admins."""
    request = pb.SettleRequest(
        request_id=current().request_id,
        call_id=call_id,
        outcome=outcome,  # type: ignore[arg-type]
        note=note,
    )
    async with broker() as stub:
        answer = await stub.Settle(request)
    show(answer, [(name, str(column(answer.call))) for name, column in COLUMNS.items()], "settled")
