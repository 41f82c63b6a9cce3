"""`nanoclaw calls`: what goes out, as it happens; what waits for votes, voted on; what nobody knows, settled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli import call_view
from nanoclaw_cli.channels import PAGE, broker, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, say_line, show, show_list
from nanoclaw_cli.words import CALL_STATES, CALL_STATUSES, SETTLE_OUTCOMES, when
from nanoclaw_core.errors import Kind, NanoclawError

if TYPE_CHECKING:  # only the type stubs have these
    from nanoclaw.broker.v1.broker_pb2_grpc import BrokerServiceAsyncStub

app = typer.Typer(help="Calls through the broker: follow them, vote on them, settle them.")

POLL_SECONDS = 1.0

Call = Annotated[str, typer.Argument(metavar="CALL", help="The call's id, as `calls pending` shows it.")]
Digest = Annotated[str, typer.Option(help="Only if this is its digest: what you looked at before.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; to approve, with the --digest you looked at.")]
Notes = Annotated[str, typer.Option("--notes", "-n", help="Kept with the vote.")]


COLUMNS: Columns = {"age": call_view.age, **call_view.COLUMNS}


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
        show(one, call_view.pending_fields(one), "")
        say("")


@asynccontextmanager
async def _looked_at(call_id: str, digest: str, verb: str, yes: bool) -> AsyncIterator[tuple[Any, str]]:
    """Shows what a vote is about and asks; a stub and the digest of what was shown.

    Raises CALL_NOT_FOUND, NOT_AWAITING_APPROVAL.
    """
    if current().as_json and not yes:
        raise typer.BadParameter("--json answers programs, which can't be asked: say --yes as well")
    async with broker() as stub:
        found = await pages(stub.ListPendingCalls, pb.ListPendingCallsRequest(), "calls", 0)
        one = next((one for one in found if one.call.call_id == call_id), None)
        if one is None:
            raise _over((await stub.GetCall(pb.GetCallRequest(call_id=call_id))).call)
        if digest not in ("", one.params_digest):
            raise typer.BadParameter(f"its digest is {one.params_digest}: not what you looked at")
        if not current().as_json:
            show(one, call_view.pending_fields(one), "")
        if not yes:
            typer.confirm(f"{verb} it?", abort=True)
        yield stub, one.params_digest


def _over(call: pb.CallRecord) -> NanoclawError:
    """There is nothing to vote on: what became of it, and why."""
    why = f": {call.reason}" if call.reason else ""
    return NanoclawError(
        Kind.PRECONDITION,
        "NOT_AWAITING_APPROVAL",
        f"call {call.call_id} is {CALL_STATES.word(call.state)}{why}; there is nothing to vote on",
        next_step=f"`nanoclaw call get {call.call_id}` shows it, `nanoclaw calls pending` what waits",
        state=CALL_STATES.word(call.state),
    )


@command(app, mutates=True)
async def approve(call_id: Call, notes: Notes = "", digest: Digest = "", yes: Yes = False) -> None:
    """Shows what would happen, asks, and votes for it. Exit code 1 where it was carried out and did not work."""
    if yes and not digest:
        raise typer.BadParameter("--yes votes for what you looked at before: say its --digest, of `calls pending`")
    async with _looked_at(call_id, digest, "Approve", yes) as (stub, shown):
        request = pb.ApproveCallRequest(
            request_id=current().request_id, call_id=call_id, params_digest=shown, notes=notes
        )
        answer = await stub.ApproveCall(request, timeout=60.0)
    if not answer.HasField("outcome"):
        show(answer, [("state", CALL_STATES.word(answer.call.state))], "voted; it waits for another vote")
        return
    show(answer, call_view.answer_fields(answer.outcome), "voted; it was the last vote that it took")
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
