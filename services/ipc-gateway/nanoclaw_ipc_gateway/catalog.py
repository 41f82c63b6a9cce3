"""What the broker knows of grants, as far as snapshots show it: kept in memory, told apart by group."""

from collections.abc import Iterable
from typing import Any

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw_ipc_gateway import views


class Catalog:
    """The grants of every group, and the providers that there are."""

    def __init__(self) -> None:
        self._grants: dict[str, list[dict[str, Any]]] = {}
        self.providers: list[str] = []

    def replace(self, found: Iterable[broker.GroupCapability], providers: list[str]) -> set[str] | None:
        """Shows these and no others; answers the groups that see a difference, None for all of them."""
        grants: dict[str, list[dict[str, Any]]] = {}
        for capability in found:
            grants.setdefault(capability.capability.group, []).append(views.capability(capability))
        before, self._grants = self._grants, grants
        if providers != self.providers:
            self.providers = providers
            return None
        return {group for group in before.keys() | grants.keys() if before.get(group) != grants.get(group)}

    def seen_by(self, group: str) -> list[dict[str, Any]]:
        """A group's grants."""
        return self._grants.get(group, [])
