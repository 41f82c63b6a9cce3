"""`nanoclaw task`: tasks, from their creation to their history."""

from typing import Annotated

import typer

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli import task_view
from nanoclaw_cli.channels import governance, pages
from nanoclaw_cli.invocation import command, current
from nanoclaw_cli.known_groups import warn_unless_known
from nanoclaw_cli.output import say, say_json, show, show_list
from nanoclaw_cli.words import GATES, PRIORITIES, RISKS, SCOPES, STATES, TYPES, as_typed, moment

app = typer.Typer(no_args_is_help=True, help="Tasks: create, move, approve, explain, follow.")

Id = Annotated[str, typer.Argument(help="The task's id.", metavar="TASK")]
Version = Annotated[
    int | None, typer.Option("--expected-version", help="Refuse if the task has changed since this version.")
]
Limit = Annotated[int, typer.Option(help="At most so many; 0: all.", min=0)]
GateOption = Annotated[int, GATES.option()]
PriorityOption = Annotated[int, PRIORITIES.option()]
RiskOption = Annotated[int, RISKS.option()]
Group = Annotated[str, typer.Option("--group", "-g", help="The group that works on it.")]


@command(app, mutates=True)
async def create(
    title: Annotated[str, typer.Argument()],
    type: Annotated[int, TYPES.option(default="FEATURE")] = pb.TASK_TYPE_FEATURE,
    description: Annotated[str, typer.Option("--description", "-d")] = "",
    priority: Annotated[int, PRIORITIES.option(default="P2")] = pb.PRIORITY_P2,
    product: Annotated[str, typer.Option(help="A product's name or id.")] = "",
    scope: Annotated[int, SCOPES.option()] = 0,
    group: Group = "",
    gate: Annotated[int, GATES.option(default="None")] = pb.GATE_NONE,
    human_gate: Annotated[bool, typer.Option("--human-gate", help="Only a person may approve.")] = False,
    risk: Annotated[int, RISKS.option(default="normal")] = pb.RISK_NORMAL,
    metadata: Annotated[str, typer.Option(help="A JSON object.", parser=task_view.check_json, metavar="JSON")] = "",
    id: Annotated[str, typer.Option(help="An id of your own choosing.")] = "",
    ready: Annotated[bool, typer.Option("--ready", help="Move it on to READY, where the dispatcher takes it.")] = False,
) -> None:
    """Creates a task in INBOX."""
    request_id = current().request_id
    async with governance() as stub:
        request = pb.CreateTaskRequest(
            request_id=request_id,
            title=title,
            description=description,
            task_type=type,  # type: ignore[arg-type]
            priority=priority,  # type: ignore[arg-type]
            scope=scope,  # type: ignore[arg-type]
            assigned_group=group,
            gate=gate,  # type: ignore[arg-type]
            human_gate=human_gate,
            risk=risk,  # type: ignore[arg-type]
            metadata_json=metadata,
            id=id,
        )
        if product:
            request.product_id = (await stub.GetProduct(pb.GetProductRequest(product_id=product))).product.id
        task = (await stub.CreateTask(request)).task
        for state in (pb.TASK_STATE_TRIAGED, pb.TASK_STATE_READY) if ready else ():
            moving = pb.TransitionTaskRequest(
                request_id=f"{request_id}-{STATES.word(state)}", task_id=task.id, to_state=state
            )
            task = (await stub.TransitionTask(moving)).task
    show(task, task_view.fields(task), f"created {task.id}")
    await warn_unless_known(group, "the task is blocked once it is READY")


@command(app)
async def get(task_id: Id) -> None:
    """Everything about one task."""
    async with governance() as stub:
        task = (await stub.GetTask(pb.GetTaskRequest(task_id=task_id))).task
    show(task, task_view.fields(task))


@command(app, "list")
async def list_tasks(
    state: Annotated[list[int] | None, STATES.option(help="Any of these; repeat it.")] = None,
    group: Group = "",
    product: Annotated[str, typer.Option(help="A product's id.")] = "",
    gate: GateOption = 0,
    priority: PriorityOption = 0,
    limit: Limit = 100,
) -> None:
    """Tasks, by the filters given."""
    request = pb.ListTasksRequest(
        states=state or [],  # type: ignore[arg-type]
        assigned_group=group,
        product_id=product,
        gate=gate,  # type: ignore[arg-type]
        priority=priority,  # type: ignore[arg-type]
    )
    async with governance() as stub:
        tasks = await pages(stub.ListTasks, request, "tasks", limit)
    show_list(tasks, task_view.COLUMNS, "no tasks")


@command(app, mutates=True)
async def assign(
    task_id: Id,
    group: Annotated[str, typer.Argument(help="The group that will work on it.")],
    executor: Annotated[str, typer.Option(help="A note of who in the group.")] = "",
    expected_version: Version = None,
) -> None:
    """Assigns a task to a group."""
    request = pb.AssignTaskRequest(
        request_id=current().request_id,
        task_id=task_id,
        assigned_group=group,
        executor=executor,
        expected_version=expected_version,
    )
    async with governance() as stub:
        task = (await stub.AssignTask(request)).task
    show(task, task_view.fields(task))
    await warn_unless_known(group, "the task is blocked once it is READY")


@command(app, mutates=True)
async def move(
    task_id: Id,
    state: Annotated[int, STATES.argument()],
    reason: Annotated[str, typer.Option("--reason", "-r")] = "",
    summary: Annotated[str, typer.Option(help="To REVIEW: what was done.")] = "",
    expected_version: Version = None,
) -> None:
    """Moves a task along one edge."""
    request = pb.TransitionTaskRequest(
        request_id=current().request_id,
        task_id=task_id,
        to_state=state,  # type: ignore[arg-type]
        reason=reason,
        review_summary=summary,
        expected_version=expected_version,
    )
    async with governance() as stub:
        answer = await stub.TransitionTask(request)
    word = STATES.word(answer.task.state)
    if current().as_json:
        say_json(answer)
    else:
        say(f"{task_id} {'is' if answer.changed else 'was already'} in {word}, version {answer.task.version}")


@command(app, mutates=True)
async def update(
    task_id: Id,
    title: Annotated[str | None, typer.Option()] = None,
    description: Annotated[str | None, typer.Option("--description", "-d")] = None,
    priority: PriorityOption = 0,
    gate: GateOption = 0,
    human_gate: Annotated[bool | None, typer.Option("--human-gate/--no-human-gate")] = None,
    risk: RiskOption = 0,
    expected_version: Version = None,
) -> None:
    """Changes what a task says, its priority, gate or risk."""
    request = pb.UpdateTaskRequest(
        request_id=current().request_id,
        task_id=task_id,
        title=title,
        description=description,
        priority=priority,  # type: ignore[arg-type]
        gate=gate,  # type: ignore[arg-type]
        human_gate=human_gate,
        risk=risk,  # type: ignore[arg-type]
        expected_version=expected_version,
    )
    async with governance() as stub:
        task = (await stub.UpdateTask(request)).task
    show(task, task_view.fields(task))


@command(app)
async def explain(
    task_id: Id,
    state: Annotated[int, STATES.argument()],
    principal: Annotated[str, typer.Option("--as-principal", help="For group:developer, say, instead of you.")] = "",
    reason: Annotated[str, typer.Option("--reason", "-r")] = "",
    summary: Annotated[str, typer.Option()] = "",
) -> None:
    """What moving a task would take: every violation, the next steps, who may. Changes nothing."""
    request = pb.ExplainTransitionRequest(
        task_id=task_id,
        to_state=state,  # type: ignore[arg-type]
        as_principal=principal,
        reason=reason,
        review_summary=summary,
    )
    async with governance() as stub:
        answer = await stub.ExplainTransition(request)
    verdict = "it would pass" if answer.allowed else "it would be refused"
    if answer.allowed and not answer.would_change:
        verdict = "it is there already"
    show(
        answer,
        [
            ("violations", "\n".join(f"{one.code}: {one.message}" for one in answer.violations)),
            ("next steps", as_typed("\n".join(answer.next_steps))),
            ("who may", ", ".join(answer.permitted_principals)),
        ],
        verdict,
    )


@command(app)
async def history(task_id: Id, limit: Limit = 0) -> None:
    """A task's facts, oldest first."""
    async with governance() as stub:
        facts = await pages(stub.ListActivities, pb.ListActivitiesRequest(task_id=task_id), "activities", limit)
    show_list(facts, task_view.HISTORY, f"nothing happened to {task_id}")


@command(app, mutates=True)
async def override(
    task_id: Id,
    reason: Annotated[str, typer.Option("--reason", "-r")],
    accepted_risk: Annotated[str, typer.Option(help="The risk that you accept.")],
    review_by: Annotated[str, typer.Option(parser=moment, metavar="TIME", help="7d, or 2026-12-31.")],
    expected_version: Version = None,
) -> None:
    """Lets a task pass its gate without approval, and opens a follow-up to review that."""
    request = pb.OverrideTaskRequest(
        request_id=current().request_id,
        task_id=task_id,
        reason=reason,
        accepted_risk=accepted_risk,
        review_deadline=review_by,  # type: ignore[arg-type]
        expected_version=expected_version,
    )
    async with governance() as stub:
        answer = await stub.OverrideTask(request)
    show(answer, task_view.fields(answer.task), f"overridden; follow-up {answer.follow_up.id}")
