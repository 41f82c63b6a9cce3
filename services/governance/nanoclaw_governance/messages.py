"""Messages of tasks, kept for lists: reading and building fifty of them is what a list costs, and few have changed."""

import threading

from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_core.principal import Caller
from nanoclaw_governance import listing, tasks
from nanoclaw_governance.listing import Filter, Glimpse
from nanoclaw_governance.wire import task_message
from nanoclaw_rpc import page
from nanoclaw_store import Tx

MOST = 2048
"""How many are kept, and …"""
LARGEST = 4096
"""… how many bytes one may have: some megabytes in all."""
FEW = 10
"""Up to so many that are missing are read one by one; a page that lacks more is read anew."""


class TaskMessages:
    """Messages by what they were built from: one is used only while the database has just that.

    Several threads may use it at once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Glimpse, pb.Task]] = {}
        self._changing = threading.Lock()

    def page(
        self, tx: Tx, wanted: Filter, viewer: Caller, after: tuple[str, str], most: int
    ) -> tuple[list[pb.Task], Glimpse | None]:
        """At most so many tasks, as listing.page has them and a page holds, and the last of them if there are more."""
        found = listing.glimpses(tx, wanted, viewer, after, most + 1)
        shown = found[:most]
        known = [self._get(glimpse) for glimpse in shown]
        if known.count(None) > FEW:
            whole = listing.page(tx, wanted, viewer, after, most)
            messages = [self._keep(glimpse, task_message(task)) for glimpse, task in zip(shown, whole, strict=True)]
        else:
            pairs = zip(shown, known, strict=True)
            messages = [message if message is not None else self._read(tx, glimpse) for glimpse, message in pairs]
        kept = page.fitting(messages)
        return messages[:kept], found[kept - 1] if len(found) > kept else None

    def _get(self, glimpse: Glimpse) -> pb.Task | None:
        kept = self._kept.get(glimpse.id)
        return kept[1] if kept is not None and kept[0] == glimpse else None

    def _read(self, tx: Tx, glimpse: Glimpse) -> pb.Task:
        task = tasks.get(tx, glimpse.id)
        assert task is not None, "the glimpse is of the same transaction"
        return self._keep(glimpse, task_message(task))

    def _keep(self, glimpse: Glimpse, message: pb.Task) -> pb.Task:
        if message.ByteSize() <= LARGEST:
            with self._changing:
                self._kept.pop(glimpse.id, None)
                self._kept[glimpse.id] = (glimpse, message)
                if len(self._kept) > MOST:
                    del self._kept[next(iter(self._kept))]
        return message
