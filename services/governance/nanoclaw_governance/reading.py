"""Reading: what the list RPCs and the verification have in common."""

import asyncio
from pathlib import Path
from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import denied
from nanoclaw_core.principal import Caller
from nanoclaw_governance.tables import SLICE
from nanoclaw_store import verify


def require_task(request: Any, caller: Caller) -> None:
    """A group other than main reads about one task at a time. Raises NOT_PERMITTED."""
    if caller.group and not caller.is_main and not request.task_id:
        raise denied("NOT_PERMITTED", f"{caller.principal} may not read about every task", "send a task_id")


async def verify_log(path: Path) -> pb.VerifyLogResponse:
    """The slice's chain and fold, checked in a thread."""
    report = await asyncio.to_thread(verify, path, only=SLICE.name)
    (ours,) = report.slices
    broken = ours.first_broken
    return pb.VerifyLogResponse(
        ok=report.ok,
        rows=ours.rows,
        head=pb.Cursor(epoch=ours.head.epoch, seq=ours.head.seq),
        head_hash=ours.head.hash,
        first_broken=pb.Cursor(epoch=broken.epoch, seq=broken.seq) if broken else None,
        findings=ours.findings,
    )
