"""Groups that there are: whoever names another is told, for a typo would wait until somebody looks."""

import asyncio

from nanoclaw.dispatcher.v1 import dispatcher_pb2 as pb
from nanoclaw_cli.channels import dispatcher, pages
from nanoclaw_cli.output import say_warning
from nanoclaw_core.errors import NanoclawError

SECONDS = 2.0


async def warn_unless_known(group: str, what: str) -> None:
    """A line on stderr where the dispatcher has no such group; nothing where it can't be asked.

    Groups are the dispatcher's configuration: governance and the broker take any name, since one may be added later.
    what: that comes of it.
    """
    if not group or group.startswith("operator:"):
        return
    try:
        async with asyncio.timeout(SECONDS), dispatcher() as stub:
            groups = await pages(stub.ListGroups, pb.ListGroupsRequest(), "groups", 0)
    except (NanoclawError, TimeoutError):
        return
    known = sorted(one.name for one in groups)
    if known and group not in known:
        say_warning(f"UNKNOWN_GROUP: no group {group!r} is configured, so {what}; here are {', '.join(known)}")
