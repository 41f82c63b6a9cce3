"""For tests: which RPCs a service has, and which of them its access table forgets."""

from nanoclaw_rpc.access import Access
from nanoclaw_rpc.handlers import registered
from nanoclaw_rpc.server import ServiceSpec


def rpcs(spec: ServiceSpec) -> list[str]:
    """The bare names of all RPCs of a service."""
    return sorted(registered(spec.add, spec.servicer))


def unlisted(spec: ServiceSpec) -> list[str]:
    """RPCs that the access table lacks; Server.start refuses to serve those, so this must be []."""
    return [rpc for rpc in rpcs(spec) if rpc not in spec.access]


def permitted(spec: ServiceSpec) -> list[tuple[str, Access, bool]]:
    """Every RPC with every class of callers, and whether the table lets it pass."""
    return [(rpc, access, access in spec.access.get(rpc, ())) for rpc in rpcs(spec) for access in Access]
