"""Who may call what: the classes of callers that a service's access table names."""

import enum
from functools import lru_cache

from nanoclaw_core.principal import Caller, Role


class Access(enum.Enum):
    """A class of callers; an access table lists for each RPC the classes that may call it."""

    ADMIN = "operators with the role admin"
    APPROVER = "operators with the role approver"
    VIEWER = "operators with the role viewer"
    MAIN = "the group main"
    GROUP = "any group, main included"
    SERVICE = "any service"
    GOVERNANCE = "the service governance"
    BROKER = "the service broker"
    DISPATCHER = "the service dispatcher"
    GATEWAY = "the service gateway"
    OPS = "the service ops"
    ANYONE = "any credential"


_ROLES = {Role.ADMIN: Access.ADMIN, Role.APPROVER: Access.APPROVER, Role.VIEWER: Access.VIEWER}
_SERVICES = {
    "governance": Access.GOVERNANCE,
    "broker": Access.BROKER,
    "dispatcher": Access.DISPATCHER,
    "gateway": Access.GATEWAY,
    "ops": Access.OPS,
}


def classes(caller: Caller) -> frozenset[Access]:
    """The classes that a caller belongs to."""
    return _classes(caller.principal, caller.role)


@lru_cache(maxsize=4096)
def _classes(principal: str, role: Role) -> frozenset[Access]:
    kind, _, name = principal.partition(":")
    found = {Access.ANYONE}
    if kind == "operator" and role in _ROLES:
        found.add(_ROLES[role])
    elif kind == "service" and name in _SERVICES:
        found |= {Access.SERVICE, _SERVICES[name]}
    elif kind == "group" and name:
        found.add(Access.GROUP)
        if name == "main":
            found.add(Access.MAIN)
    return frozenset(found)
