"""`nanoclaw status`: what runs, where the tasks are, who works, what waits for a person."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.dispatcher.v1 import dispatcher_pb2 as dispatcher
from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw.governance.v1 import governance_pb2 as governance
from nanoclaw_cli import channels, desired
from nanoclaw_cli.call_view import since
from nanoclaw_cli.freezes import target
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import STATE_STYLES, console, say_json
from nanoclaw_cli.services import SERVICES, Service
from nanoclaw_cli.supervisor import is_serving, read_state
from nanoclaw_cli.words import CALL_STATES, LEVELS, STATES
from nanoclaw_core.errors import NanoclawError

app = typer.Typer()

STATUS_SECONDS = 3.0
"""How long a service may take to say that it serves; a handshake on a busy machine takes its time."""


@command(app)
async def status() -> None:
    """What runs, task counts by state, agents, calls, messages."""
    home = current().home
    running = read_state(home)
    serving = await asyncio.gather(*(_serves(service) for service in SERVICES))
    found: dict[str, Any] = {
        "home": str(home),
        "desired": desired.wanted(home),
        "supervised": "supervisor" in running,
        "at": current().at,
        "services": {
            service.name: {"serving": up, "pid": running.get(service.name, (None, ""))[0]}
            for service, up in zip(SERVICES, serving, strict=True)
        },
    }
    up = {service.name for service, yes in zip(SERVICES, serving, strict=True) if yes}
    readers = {"governance": _governance, "dispatcher": _dispatcher, "broker": _broker, "gateway": _gateway}
    for part in await asyncio.gather(*(_part(read) for name, read in readers.items() if name in up)):
        found |= part
    if current().as_json:
        say_json(found)
    else:
        _show(found)


async def _serves(service: Service) -> bool:
    return await is_serving(current().target(service), STATUS_SECONDS, tls=current().tls, peer=service.name)


async def _part(read: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """One service's share; what it could not say is a line among `problems`."""
    try:
        return await read()
    except NanoclawError as error:
        return {f"{read.__name__.removeprefix('_')}_problem": str(error)}


async def _governance() -> dict[str, Any]:
    async with channels.governance() as stub:
        answer = await stub.GetStatus(governance.GetStatusRequest())
    counts = {STATES.word(one.state): one.count for one in answer.counts}
    states = [name.removeprefix("TASK_STATE_") for name in governance.TaskState.keys()[1:]]
    return {
        "tasks": {state: counts.get(state, 0) for state in states},
        "products": answer.products,
        "log_head": {"epoch": answer.head.epoch, "seq": answer.head.seq},
        "policy_version": answer.policy_version,
    }


async def _dispatcher() -> dict[str, Any]:
    async with channels.dispatcher() as stub:
        answer = await stub.GetStatus(dispatcher.GetStatusRequest())
        groups = await channels.pages(stub.ListGroups, dispatcher.ListGroupsRequest(), "groups", 0)
        request = dispatcher.ListDispatchesRequest(states=[dispatcher.DISPATCH_STATE_FAILED])
        failed = await channels.pages(stub.ListDispatches, request, "dispatches", 0)
    return {
        "dispatches": {"running": answer.running, "waiting": answer.waiting, "failed": len(failed)},
        "max_running": answer.max_containers,
        "runtime": answer.runtime,
        "isolation": answer.isolation,
        "watching": answer.watching,
        "groups": {
            one.name: {"running": one.running, "doing": one.doing, "wip_limit": one.wip_limit} for one in groups
        },
    }


async def _broker() -> dict[str, Any]:
    async with channels.broker() as stub:
        answer = await stub.GetStatus(broker.GetStatusRequest())
    return {
        "calls": {CALL_STATES.word(one.state): one.count for one in answer.counts},
        "oldest_unknown": since(answer.oldest_unknown_at) if answer.HasField("oldest_unknown_at") else "",
        "freezes": [f"{target(one)}: {LEVELS.word(one.max_level)} at the most" for one in answer.freezes],
        "open_circuits": [one.provider for one in answer.breakers],
    }


async def _gateway() -> dict[str, Any]:
    async with channels.gateway() as stub:
        answer = await stub.GetStatus(gateway.GetStatusRequest())
    return {
        "files": {"pending": answer.pending, "answered": answer.answered, "quarantined": answer.quarantined},
        "messages": answer.messages,
        "open_mailboxes": answer.open_mailboxes,
    }


def _show(found: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    where = "at" if found["at"] else "home"
    table.add_row(where, found[where])
    services = Text("  ").join(
        Text(f"● {name}" if one["serving"] else f"○ {name}", style="green" if one["serving"] else "red")
        for name, one in found["services"].items()
    )
    table.add_row("services", services)
    if not found["supervised"] and not found["at"]:
        table.add_row("", "nobody watches them; `nanoclaw up` starts them")
    if "tasks" in found:
        table.add_row("tasks", _counts(found["tasks"]))
        table.add_row("products", str(found["products"]))
    if "dispatches" in found:
        table.add_row("agents", _counts(found["dispatches"], f", at most {found['max_running']} at once"))
        table.add_row("isolation", f"{found['runtime']}, {found['isolation']}")
        for name, one in found["groups"].items():
            over = "red" if one["doing"] > one["wip_limit"] else ""
            table.add_row(f"  {name}", Text(f"{one['doing']} of {one['wip_limit']} doing, {one['running']} run", over))
    if "calls" in found:
        age = found["oldest_unknown"]
        table.add_row("calls", _counts(found["calls"], f", the oldest unknown since {age}" if age else ""))
        if found["freezes"]:
            table.add_row("frozen", Text("; ".join(found["freezes"]), "bold red"))
        if found["open_circuits"]:
            table.add_row("in trouble", Text(", ".join(found["open_circuits"]), "red"))
    if "files" in found:
        table.add_row("files", _counts(found["files"]))
        table.add_row("messages", str(found["messages"]))
    if "log_head" in found:
        head = found["log_head"]
        table.add_row("log", f"epoch {head['epoch']}, row {head['seq']}, policy {found['policy_version']}")
    for name, problem in found.items():
        if name.endswith("_problem"):
            table.add_row(name.removesuffix("_problem"), Text(problem, style="red"))
    console().print(table)


def _counts(counts: dict[str, int], after: str = "") -> Text:
    parts = [
        Text(f"{name.lower()} {count}", style=STATE_STYLES.get(name, "")) for name, count in counts.items() if count
    ]
    return Text.assemble(Text("  ").join(parts) if parts else Text("none"), after)
