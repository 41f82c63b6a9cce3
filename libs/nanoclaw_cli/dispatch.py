"""`nanoclaw dispatch`: which agents ran, run, or could not."""

from typing import Annotated

import typer

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw_cli.channels import dispatcher, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_line, show, show_list
from nanoclaw_cli.words import ATTEMPT_STATES, DISPATCH_STATES, when
from nanoclaw_core.errors import Kind, NanoclawError

app = typer.Typer(no_args_is_help=True, help="Dispatches: the agents that were started for tasks.")

Id = Annotated[str, typer.Argument(help="The dispatch's id or key.", metavar="DISPATCH")]

COLUMNS: Columns = {
    "id": lambda one: one.id,
    "task": lambda one: one.task_id,
    "group": lambda one: one.group,
    "rule": lambda one: one.rule,
    "state": lambda one: DISPATCH_STATES.word(one.state),
    "attempts": lambda one: len(one.attempts),
    "ended": lambda one: _outcome(one),
    "reason": lambda one: one.reason.partition("\n")[0][:100],
    "updated": lambda one: when(one, "updated_at"),
}
GROUPS: Columns = {
    "group": lambda one: one.name,
    "role": lambda one: one.role,
    "runtime": lambda one: one.runtime,
    "command": lambda one: " ".join(one.command) or "reference agent",
    "running": lambda one: one.running,
    "doing": lambda one: one.doing,
    "wip limit": lambda one: f"{one.wip_limit}{' (hard)' if one.wip_hard else ''}",
}


def _outcome(one: pb.Dispatch) -> str:
    return one.attempts[-1].outcome if one.attempts else ""


def _attempt(one: pb.Attempt) -> str:
    code = f", exit {one.exit_code}" if one.HasField("exit_code") else ""
    times = f"{when(one, 'started_at')} – {when(one, 'ended_at')}" if one.HasField("started_at") else ""
    return f"{one.id} {ATTEMPT_STATES.word(one.state)} {one.outcome}{code} {times}".strip()


def _line(row: pb.WatchDispatchesResponse) -> str:
    one = row.dispatch
    state = DISPATCH_STATES.word(one.state)
    return f"{when(one, 'updated_at')}  {row.action:<8} {one.key}  {one.group}  {state}  {_outcome(one)}".rstrip()


def _show(one: pb.Dispatch, line: str = "") -> None:
    show(
        one,
        [
            ("id", one.id),
            ("key", one.key),
            ("task", one.task_id),
            ("group", one.group),
            ("state", DISPATCH_STATES.word(one.state)),
            ("reason", one.reason),
            ("next attempt", when(one, "not_before")),
            ("attempts", "\n".join(_attempt(attempt) for attempt in one.attempts)),
            ("last lines", one.attempts[-1].last_lines.strip() if one.attempts else ""),
            ("created", when(one, "created_at")),
            ("updated", when(one, "updated_at")),
        ],
        line,
    )


@command(app, "list")
async def list_dispatches(
    task: Annotated[str, typer.Option()] = "",
    group: Annotated[str, typer.Option("--group", "-g")] = "",
    state: Annotated[
        list[int] | None,
        DISPATCH_STATES.option(help="Any of these; repeat it."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0)] = 50,
) -> None:
    """Dispatches, newest first."""
    request = pb.ListDispatchesRequest(task_id=task, group=group, states=state or [])  # type: ignore[arg-type]
    async with dispatcher() as stub:
        found = await pages(stub.ListDispatches, request, "dispatches", limit)
    show_list(found, COLUMNS, "no dispatches")


@command(app)
async def get(dispatch_id: Id) -> None:
    """One dispatch, its attempts, and what the last one wrote."""
    async with dispatcher() as stub:
        _show((await stub.GetDispatch(pb.GetDispatchRequest(dispatch_id=dispatch_id))).dispatch)


@command(app, mutates=True)
async def retry(dispatch_id: Id) -> None:
    """Starts a new attempt of a failed or cancelled dispatch whose task still waits for it."""
    request = pb.RetryDispatchRequest(request_id=current().request_id, dispatch_id=dispatch_id)
    async with dispatcher() as stub:
        _show((await stub.RetryDispatch(request)).dispatch, "it is tried again")


@command(app, mutates=True)
async def cancel(dispatch_id: Id, reason: Annotated[str, typer.Option("--reason", "-r")]) -> None:
    """Stops the live attempt and blocks the task with the reason."""
    request = pb.CancelDispatchRequest(request_id=current().request_id, dispatch_id=dispatch_id, reason=reason)
    async with dispatcher() as stub:
        answer = await stub.CancelDispatch(request, timeout=30.0)
    _show(answer.dispatch, "cancelled" if answer.changed else "it had ended already")


@command(app)
async def watch() -> None:
    """Follows dispatches until Ctrl-C. Goes on where it was when the dispatcher restarts."""
    request = pb.WatchDispatchesRequest()
    async with dispatcher() as stub:
        while True:
            try:
                async for row in stub.WatchDispatches(request):
                    request.after_seq = row.seq
                    if not row.HasField("dispatch"):
                        continue
                    if current().as_json:
                        say_line(row)
                    else:
                        say(_line(row))
            except NanoclawError as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
                await stub.GetStatus(pb.GetStatusRequest())


@command(app)
async def groups() -> None:
    """The groups of the configuration, with what runs for them."""
    async with dispatcher() as stub:
        found = await pages(stub.ListGroups, pb.ListGroupsRequest(), "groups", 0)
    show_list(found, GROUPS, "no groups")
