"""`nanoclaw call`: calls through the broker, and the ledger of what they did."""

from typing import Annotated

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli import call_view, task_view
from nanoclaw_cli.channels import broker, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import show, show_list
from nanoclaw_cli.words import CALL_STATES, LEVELS

app = typer.Typer(no_args_is_help=True, help="Calls through the broker: make, explain, look up.")

Provider = Annotated[str, typer.Argument()]
Action = Annotated[str, typer.Argument()]
Params = Annotated[
    str, typer.Argument(help="The parameters, a JSON object.", parser=task_view.check_json, metavar="[PARAMS]")
]
Task = Annotated[str, typer.Option(help="The task that it is for.")]
Key = Annotated[str, typer.Option("--idempotency-key", help="The same key executes once.")]


@command(app, "make", mutates=True)
async def make(
    provider: Provider, action: Action, params: Params = "{}", task: Task = "", idempotency_key: Key = ""
) -> None:
    """Makes one call. Exit code 1 unless it was executed."""
    request = pb.CallRequest(
        request_id=current().request_id,
        provider=provider,
        action=action,
        params_json=params,
        task_id=task,
        idempotency_key=idempotency_key,
    )
    async with broker() as stub:
        answer = await stub.Call(request, timeout=60.0)
    show(answer, call_view.answer_fields(answer))
    if answer.status != pb.CALL_STATUS_EXECUTED:
        raise typer.Exit(1)


@command(app)
async def explain(
    provider: Provider,
    action: Action,
    params: Params = "{}",
    group: Annotated[str, typer.Option("--group", "-g", help="For this group, instead of you.")] = "",
    task: Task = "",
    idempotency_key: Key = "",
) -> None:
    """The verdict that a call would meet, and what would make it pass. Executes nothing."""
    request = pb.ExplainCallRequest(
        provider=provider,
        action=action,
        params_json=params,
        group=group,
        task_id=task,
        idempotency_key=idempotency_key,
    )
    async with broker() as stub:
        answer = await stub.ExplainCall(request)
    show(
        answer,
        [
            ("code", answer.code),
            ("message", answer.message),
            ("decided by", f"check {answer.check_number}, {answer.check}" if answer.check else ""),
            ("level", f"{LEVELS.word(answer.level_held)} held, {LEVELS.word(answer.level_required)} required"),
            ("facts", "\n".join(f"{name}: {value}" for name, value in sorted(answer.facts.items()))),
            ("next steps", "\n".join(answer.next_steps)),
        ],
        "it would be allowed" if answer.allowed else "it would be denied",
    )


@command(app)
async def get(call_id: Annotated[str, typer.Argument(metavar="CALL")]) -> None:
    """One row of the ledger, its votes, and the recorded answer."""
    async with broker() as stub:
        answer = await stub.GetCall(pb.GetCallRequest(call_id=call_id))
    show(answer, call_view.whole(answer))


@command(app, "list")
async def list_calls(
    group: Annotated[str, typer.Option("--group", "-g")] = "",
    provider: Annotated[str, typer.Option()] = "",
    task: Annotated[str, typer.Option()] = "",
    state: Annotated[
        list[int] | None,
        CALL_STATES.option(help="Any of these; repeat it."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0)] = 50,
) -> None:
    """The effect ledger, newest first; `nanoclaw calls` shows UNKNOWN first, and follows."""
    request = pb.ListCallsRequest(group=group, provider=provider, task_id=task, states=state or [])  # type: ignore[arg-type]
    async with broker() as stub:
        calls = await pages(stub.ListCalls, request, "calls", limit)
    show_list(calls, call_view.COLUMNS, "no calls")


@command(app)
async def providers() -> None:
    """What there is to call."""
    async with broker() as stub:
        found = await pages(stub.ListProviders, pb.ListProvidersRequest(), "providers", 0)
    columns = {
        "provider": lambda one: one.name,
        "description": lambda one: one.description,
        "actions": lambda one: ", ".join(f"{action.name} ({LEVELS.word(action.level)})" for action in one.actions),
        "missing secrets": lambda one: ", ".join(one.missing_secrets) or "–",
    }
    show_list(found, columns, "no providers")
