"""The calls that wait for votes, as an approver sees them: what would happen, and for what a vote is asked."""

import asyncio
import sqlite3
from dataclasses import dataclass

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker import kept_params, pendings, vote
from nanoclaw_broker.answers import MOST_BYTES, MOST_SCRUBBED
from nanoclaw_broker.call_records import record
from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.facts import Task
from nanoclaw_broker.governance import Tasks
from nanoclaw_broker.kept_params import Seal
from nanoclaw_broker.policy import Limits
from nanoclaw_broker.registry import Registry
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.principal import Caller
from nanoclaw_rpc import page
from nanoclaw_store import Database, Tx

_AT_ONCE = 8
"""Tasks read from governance at the same time."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A call that waits, with what is needed to show it but its parameters."""

    row: sqlite3.Row
    call: pb.CallRecord
    ballot: vote.Ballot


class PendingList:
    """Shows them. Tasks are read from governance: it says who executed, and whom a task concerns."""

    def __init__(
        self, database: Database, registry: Registry, tasks: Tasks, secrets: Secrets, seal: Seal, limits: Limits
    ) -> None:
        self._database = database
        self._registry = registry
        self._tasks = tasks
        self._secrets = secrets
        self._seal = seal
        self._limits = limits

    async def page(self, caller: Caller, request: pb.ListPendingCallsRequest) -> pb.ListPendingCallsResponse:
        """Oldest first. A group sees those that it asked for and those that it may vote on, so a page may be short.

        Raises GOVERNANCE_UNAVAILABLE.
        """
        size, (after,) = page.size(request), page.after(request, "")

        def query(tx: Tx) -> list[_Found]:
            rows = pendings.page(tx, after, size + 1, request.group, request.task_id)
            return [_Found(row, record(tx, row), pendings.ballot(tx, row)) for row in rows]

        found = self._database.read(query)
        tasks = await self._read_tasks({(one.row["task_id"], one.row["group_name"]) for one in found[:size]})
        shown: list[pb.PendingCall] = []
        left, last = page.MOST_BYTES, ""
        for one in found[:size]:
            task = tasks[one.row["task_id"]]
            if _sees(caller, one.row["group_name"], task):
                await asyncio.sleep(0)  # one after the other, since parameters may be large, and others wait
                told = self._show(one, task)
                left -= told.ByteSize()
                if left < 0 and shown:
                    return pb.ListPendingCallsResponse(calls=shown, next_page_token=page.encode(last))
                shown.append(told)
            last = one.row["call_id"]
        more = page.encode(last) if len(found) > size else ""
        return pb.ListPendingCallsResponse(calls=shown, next_page_token=more)

    async def _read_tasks(self, wanted: set[tuple[str, str]]) -> dict[str, Task]:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def read(task_id: str, group: str) -> Task:
            async with at_once:
                return (await self._tasks.read(task_id, group, approvals=False)).task

        return {task.id: task for task in await asyncio.gather(*(read(*one) for one in sorted(wanted)))}

    def _show(self, one: _Found, task: Task) -> pb.PendingCall:
        asked_by = one.row["group_name"]
        needed = vote.missing(one.ballot, asked_by, task.executors, operator_needed=self._limits.operator_votes)
        asker = asked_by if asked_by.startswith("operator:") else f"group:{asked_by}"
        return pb.PendingCall(
            call=one.call,
            rendered=self._render(one),
            params_digest=one.ballot.params_digest,
            excluded=sorted({*task.executors, asker}),
            votes_needed=needed.votes,
            operator_needed=needed.operator,
        )

    def _render(self, one: _Found) -> str:
        """By the action, from the very parameters. Where they no longer fit it says so, and a vote would end it but for
        what may pass.
        """
        call_id = one.row["call_id"]
        ciphertext = self._database.read(lambda tx: kept_params.read(tx, call_id))
        if ciphertext is None:
            return "its parameters are not kept any more"
        raw = self._seal.open(call_id, ciphertext)
        skill, action, params = self._registry.find(one.row["provider"], one.row["action"], raw)
        if action is None or params is None:
            what = f"{one.row['provider']} {one.row['action']}"
            if skill.problems and all(problem.passing for problem in skill.problems):
                return f"{what}: can't be shown now: {skill.problems[0].message}"
            return f"{what}: not what the provider takes any more"
        text = self._secrets.scrub(excerpt(action.render(params), MOST_SCRUBBED))
        return text if len(text) <= MOST_BYTES else text[:MOST_BYTES] + "\n… cut off here"


def _sees(caller: Caller, asked_by: str, task: Task) -> bool:
    if not caller.group:
        return True
    return caller.group == asked_by or vote.concerns(caller.group, task.approver_group)
