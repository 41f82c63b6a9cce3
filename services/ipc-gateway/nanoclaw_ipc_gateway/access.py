"""Who may call which RPC of the gateway. What is not listed is refused."""

from nanoclaw_rpc import Access

_PEOPLE = frozenset({Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.OPS})

ACCESS: dict[str, frozenset[Access]] = {
    "OpenMailbox": frozenset({Access.DISPATCHER}),
    "CloseMailbox": frozenset({Access.DISPATCHER}),
    "Submit": frozenset({Access.ADMIN}),
    "ListMessages": _PEOPLE,
    "WatchMessages": _PEOPLE,
    "Reply": frozenset({Access.ADMIN, Access.APPROVER}),
    "ListQuarantine": _PEOPLE,
    "RetryQuarantined": frozenset({Access.ADMIN}),
    "GetStatus": frozenset({Access.ANYONE}),
}
"""Messages are words of agents to people: no group reads another's. Groups call nothing here, they write files."""
