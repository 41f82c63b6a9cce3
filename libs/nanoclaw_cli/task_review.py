"""`nanoclaw task` for reviewers: approve, evidence, checklist, context, watch; and `nanoclaw approve`."""

from typing import Annotated

import typer

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli import task_view
from nanoclaw_cli.channels import governance
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.output import console, say, say_json, say_line, show
from nanoclaw_cli.task import Id, Version, app
from nanoclaw_cli.words import CALL_STATES, GATES, STATES
from nanoclaw_core.errors import Kind, NanoclawError

alone = typer.Typer()


@command(alone, mutates=True)
@command(app, mutates=True)
async def approve(
    task_id: Id,
    notes: Annotated[str, typer.Option("--notes", "-n")] = "",
    finish: Annotated[bool, typer.Option("--finish", help="Move it to DONE, too.")] = False,
    expected_version: Version = None,
) -> None:
    """Approves a task's gate for what is there to be seen now."""
    request_id = current().request_id
    async with governance() as stub:
        task = (await stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task
        request = pb.ApproveGateRequest(
            request_id=request_id,
            task_id=task_id,
            gate=task.gate,
            notes=notes,
            # What was read just now is what is approved, unless another version was named.
            expected_version=task.version if expected_version is None else expected_version,
        )
        answer = await stub.ApproveGate(request)
        if finish:
            moving = pb.TransitionTaskRequest(
                request_id=f"{request_id}-DONE", task_id=task_id, to_state=pb.TASK_STATE_DONE, reason=notes
            )
            answer.task.CopyFrom((await stub.TransitionTask(moving)).task)
    if current().as_json:
        say_json(answer)
        return
    done = "approved" if answer.changed else "was approved by you already"
    say(f"{GATES.word(task.gate)} gate of {task_id} {done}; it is in {STATES.word(answer.task.state)}")


@command(app, mutates=True)
async def evidence(
    task_id: Id,
    link: Annotated[str, typer.Argument(help="A URL, or a path in the group's folder.")],
    note: Annotated[str, typer.Option("--note", "-n")] = "",
    expected_version: Version = None,
) -> None:
    """Adds a link to evidence. Live approvals are void then: they covered something else."""
    request = pb.AddEvidenceRequest(
        request_id=current().request_id, task_id=task_id, link=link, note=note, expected_version=expected_version
    )
    async with governance() as stub:
        task = (await stub.AddEvidence(request)).task
    show(task, task_view.fields(task))


@command(app, mutates=True)
async def checklist(
    task_id: Id,
    open: Annotated[list[str] | None, typer.Option("--open", help="An item still to do; repeat it.")] = None,
    done: Annotated[list[str] | None, typer.Option("--done", help="An item that is done; repeat it.")] = None,
    evidence_required: Annotated[bool | None, typer.Option("--evidence-required/--no-evidence-required")] = None,
    docs_updated: Annotated[bool | None, typer.Option("--docs-updated/--no-docs-updated")] = None,
    expected_version: Version = None,
) -> None:
    """Changes the definition of done: items named here replace the one of the same text, or are added."""
    async with governance() as stub:
        task = (await stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task
        items = {item.text: item.done for item in task.checklist}
        items |= dict.fromkeys(open or [], False) | dict.fromkeys(done or [], True)
        request = pb.SetChecklistRequest(
            request_id=current().request_id,
            task_id=task_id,
            checklist=[pb.ChecklistItem(text=text, done=is_done) for text, is_done in items.items()],
            evidence_required=evidence_required,
            docs_updated=docs_updated,
            expected_version=task.version if expected_version is None else expected_version,
        )
        task = (await stub.SetChecklist(request)).task
    show(task, task_view.fields(task))


@command(app)
async def context(task_id: Id) -> None:
    """What a reviewer needs: the task, its summary, evidence, approvals, calls, last facts."""
    async with governance() as stub:
        pack = await stub.GetContextPack(pb.GetContextPackRequest(task_id=task_id))
    calls = pack.external_calls_unavailable or "\n".join(
        f"{call.provider}.{call.action} {CALL_STATES.word(call.state)} {call.params_summary}"
        for call in pack.external_calls
    )
    approvals = "\n".join(
        f"{GATES.word(one.gate)} by {one.approved_by}{' (void: ' + one.void_reason + ')' if one.void_reason else ''}"
        for one in pack.approvals
    )
    facts = "\n".join(task_view.line(fact) for fact in pack.activities)
    show(pack, [*task_view.fields(pack.task), ("approvals", approvals), ("calls", calls), ("history", facts)])


@command(app)
async def watch(
    task_id: Annotated[str, typer.Argument(help="One task; without: all.", metavar="[TASK]")] = "",
    until: Annotated[int, STATES.option(help="End once the task is there.")] = 0,
) -> None:
    """Follows the log as it grows, until Ctrl-C or `--until`. Goes on where it was when governance restarts."""
    if until and not task_id:
        raise typer.BadParameter("--until needs a task")
    async with governance() as stub:
        cursor = (await stub.GetStatus(pb.GetStatusRequest())).head
        if until and (await stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task.state == until:
            return
        while True:
            try:
                async for row in stub.WatchTasks(pb.WatchTasksRequest(cursor=cursor, task_id=task_id)):
                    cursor = row.cursor
                    if not row.HasField("activity"):
                        continue
                    if current().as_json:
                        say_line(row.activity)
                    else:
                        console().print(task_view.line(row.activity), markup=False, soft_wrap=True)
                    if until and row.activity.to_state == until and row.activity.action == "transition":
                        return
            except NanoclawError as error:
                if error.kind is not Kind.UNAVAILABLE:
                    raise
                # The unary call waits for governance with the client's retries and gives up when it stays away.
                await stub.GetStatus(pb.GetStatusRequest())
