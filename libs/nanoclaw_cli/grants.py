"""`nanoclaw grant`, `revoke`, `capabilities`: what groups may do in the outside world."""

from typing import Annotated

import typer

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_cli.channels import broker, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.known_groups import warn_unless_known
from nanoclaw_cli.output import Columns, say, say_json, show, show_list
from nanoclaw_cli.words import GATES, LEVELS, moment, when

app = typer.Typer()

Group = Annotated[str, typer.Argument(help="The group.")]
Provider = Annotated[str, typer.Argument(help="The provider, `json` for instance.")]
Product = Annotated[str, typer.Option(help="Only for tasks of this product (its id).")]

COLUMNS: Columns = {
    "group": lambda one: one.capability.group,
    "provider": lambda one: one.capability.provider,
    "level": lambda one: LEVELS.word(one.capability.access_level),
    "product": lambda one: one.capability.product_id or "–",
    "expires": lambda one: when(one.capability, "expires_at") or "never",
    "available": lambda one: ", ".join(action.name for action in one.actions if action.status == "available"),
    "not available": lambda one: ", ".join(
        f"{action.name} ({action.status})" for action in one.actions if action.status != "available"
    ),
    "by": lambda one: one.capability.granted_by,
}


def _fields(one: pb.Capability) -> list[tuple[str, str]]:
    return [
        ("group", one.group),
        ("provider", one.provider),
        ("level", LEVELS.word(one.access_level)),
        ("only", ", ".join(one.allowed_actions)),
        ("never", ", ".join(one.denied_actions)),
        ("gate", one.requires_task_gate),
        ("product", one.product_id),
        ("unverified", "allowed" if one.allow_unverified else ""),
        ("expires", when(one, "expires_at") or "never"),
    ]


@command(app, mutates=True)
async def grant(
    group: Group,
    provider: Provider,
    level: Annotated[int, LEVELS.argument()],
    allow: Annotated[list[str] | None, typer.Option(help="Only this action; repeat it.")] = None,
    deny: Annotated[list[str] | None, typer.Option(help="Never this action; repeat it. Deny wins.")] = None,
    gate: Annotated[int, GATES.option(help="Must be approved on the call's task.")] = 0,
    product: Product = "",
    allow_unverified: Annotated[
        bool,
        typer.Option(
            "--allow-unverified", help="Also actions whose end nobody can verify, without votes. Admins only."
        ),
    ] = False,
    expires: Annotated[
        str | None, typer.Option(parser=moment, metavar="TIME", help="12h, 7d, 2026-12-31. L2 and above: 7d at most.")
    ] = None,
) -> None:
    """Grants a group access to a provider; granting again renews."""
    request = pb.GrantRequest(
        request_id=current().request_id,
        group=group,
        provider=provider,
        access_level=level,  # type: ignore[arg-type]
        allowed_actions=allow or [],
        denied_actions=deny or [],
        requires_task_gate=GATES.word(gate),
        product_id=product,
        expires_at=expires,  # type: ignore[arg-type]
        allow_unverified=allow_unverified,
    )
    async with broker() as stub:
        capability = (await stub.Grant(request)).capability
    show(capability, _fields(capability), "granted")
    await warn_unless_known(group, "nobody can use the grant")


@command(app, mutates=True)
async def revoke(
    group: Group,
    provider: Provider,
    product: Product = "",
    reason: Annotated[str, typer.Option("--reason", "-r")] = "",
) -> None:
    """Ends a grant, in force for the next call."""
    request = pb.RevokeRequest(
        request_id=current().request_id, group=group, provider=provider, product_id=product, reason=reason
    )
    async with broker() as stub:
        answer = await stub.Revoke(request)
    if current().as_json:
        say_json(answer)
    else:
        say(f"{group} lost {provider}" if answer.changed else f"{group} had no grant for {provider}")


@command(app)
async def capabilities(
    group: Annotated[str, typer.Argument(help="One group; without: all.", metavar="[GROUP]")] = "",
    ended: Annotated[bool, typer.Option("--ended", help="Also revoked and expired ones.")] = False,
    limit: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """What groups may call, action by action."""
    request = pb.ListCapabilitiesRequest(group=group, include_inactive=ended)
    async with broker() as stub:
        found = await pages(stub.ListCapabilities, request, "capabilities", limit)
    show_list(found, COLUMNS, "nobody may call anything")
