"""Context packs: everything a reviewer needs, from the database and, for external calls, from the broker."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from nanoclaw.broker.v1 import broker_pb2
from nanoclaw_core.errors import NanoclawError
from nanoclaw_core.principal import Caller
from nanoclaw_governance import activities, approvals, products, tasks
from nanoclaw_governance.approval import Approval
from nanoclaw_governance.product import Product
from nanoclaw_governance.task import Task
from nanoclaw_rpc import page
from nanoclaw_store import Tx

M = TypeVar("M", bound=Message)

ACTIVITIES = 15
APPROVALS = 100
CALLS = 50

ListCalls = Callable[[broker_pb2.ListCallsRequest], Awaitable[broker_pb2.ListCallsResponse]]
"""The broker's RPC, as its client offers it: raises NanoclawError, soon."""


def newest(messages: Sequence[M]) -> Sequence[M]:
    """The last of the messages, as many as a page holds, in their order."""
    return messages[len(messages) - page.fitting(messages[::-1]) :]


class Context(NamedTuple):
    """What the database knows about a task."""

    task: Task
    product: Product | None
    activities: Sequence[Any]
    approvals: Sequence[Approval]


def read(tx: Tx, task_id: str, caller: Caller) -> Context:
    """The task with its surroundings. Raises TASK_NOT_FOUND."""
    task = tasks.find(tx, task_id, caller)
    return Context(
        task,
        products.by_id(tx, task.product_id) if task.product_id else None,
        activities.last(tx, task_id, ACTIVITIES),
        approvals.last(tx, task_id, APPROVALS),
    )


async def external_calls(list_calls: ListCalls, task_id: str) -> tuple[Sequence[broker_pb2.CallRecord], str]:
    """The task's calls, newest first, and why they are missing if they are."""
    try:
        answer = await list_calls(broker_pb2.ListCallsRequest(task_id=task_id, page_size=CALLS))
    except NanoclawError as error:
        return (), f"the broker did not answer: {error}"
    return answer.calls[:CALLS], ""
