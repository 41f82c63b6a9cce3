"""Reading: what the list RPCs and the verification have in common."""

import asyncio
from pathlib import Path
from typing import Any

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.errors import denied
from nanoclaw_core.principal import Caller
from nanoclaw_governance.tables import SLICE
from nanoclaw_rpc import page
from nanoclaw_store import verify


def after(request: page.Paged, *beginning: str | int) -> tuple[Any, ...]:
    """Where the page begins: the keys of the token, or the beginning. Raises PAGE_TOKEN_INVALID for other keys."""
    parts = page.decode(request.page_token)
    if not parts:
        return beginning
    fits = len(parts) == len(beginning) and all(
        type(part) is type(first) and (isinstance(part, str) or 0 <= part < 1 << 63)
        for part, first in zip(parts, beginning, strict=True)
    )
    if not fits:
        raise page.token_invalid("is of another list")
    return parts


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
