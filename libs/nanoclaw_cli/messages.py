"""`nanoclaw messages` and `reply`: what agents say to the operator, and the answer."""

from typing import TYPE_CHECKING, Annotated

import typer

from nanoclaw.gateway.v1 import gateway_pb2 as pb
from nanoclaw_cli.channels import gateway, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import Columns, say, say_json, say_line, show_list
from nanoclaw_cli.words import when
from nanoclaw_core.errors import Kind, NanoclawError

if TYPE_CHECKING:
    from nanoclaw.gateway.v1.gateway_pb2_grpc import GatewayServiceAsyncStub

app = typer.Typer()

COLUMNS: Columns = {
    "id": lambda one: one.id,
    "when": lambda one: when(one, "created_at"),
    "from": lambda one: one.replied_by or f"group:{one.group}",
    "task": lambda one: one.task_id or "–",
    "text": lambda one: one.text,
    "answers": lambda one: one.in_reply_to or "",
}


@command(app)
async def messages(
    group: Annotated[str, typer.Option("--group", "-g")] = "",
    task: Annotated[str, typer.Option()] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones, until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="The last so many; 0: all.")] = 50,
) -> None:
    """The last messages from agents, and replies, oldest first."""
    async with gateway() as stub:
        request = pb.ListMessagesRequest(group=group, task_id=task)
        found = (await pages(stub.ListMessages, request, "messages", 0))[-limit:]
        if follow:
            for one in found:
                _say(one)
            await _follow(stub, group, task, found[-1].seq if found else 0)
        else:
            show_list(found, COLUMNS, "no messages")


async def _follow(stub: "GatewayServiceAsyncStub", group: str, task: str, after_seq: int) -> None:
    request = pb.WatchMessagesRequest(after_seq=after_seq)
    while True:
        try:
            async for row in stub.WatchMessages(request):
                request.after_seq = row.seq
                one = row.message
                if row.HasField("message") and group in ("", one.group) and task in ("", one.task_id):
                    _say(one)
        except NanoclawError as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise
            await stub.GetStatus(pb.GetStatusRequest())


def _say(one: pb.Message) -> None:
    if current().as_json:
        say_line(one)
    else:
        say(f"{when(one, 'created_at')}  {one.id}  {COLUMNS['from'](one)}: {one.text}")


@command(app, mutates=True)
async def reply(
    text: Annotated[str, typer.Argument()],
    to: Annotated[str, typer.Option("--to", help="The id of the message that it answers.")] = "",
    group: Annotated[str, typer.Option("--group", "-g", help="Or a group.")] = "",
) -> None:
    """Answers an agent; it gets it as a later prompt."""
    if bool(to) == bool(group):
        raise typer.BadParameter("name either a message with --to, or a group with --group")
    request = pb.ReplyRequest(request_id=current().request_id, message_id=to, group=group, text=text)
    async with gateway() as stub:
        message = (await stub.Reply(request)).message
    if current().as_json:
        say_json(message)
    else:
        say(f"left for group:{message.group}")
