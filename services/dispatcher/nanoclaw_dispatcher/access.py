"""Who may call which RPC."""

from nanoclaw_rpc import Access

_READERS = frozenset({Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.MAIN, Access.SERVICE})
_OWNERS = frozenset({Access.ADMIN, Access.MAIN})

ACCESS: dict[str, frozenset[Access]] = {
    "ListDispatches": _READERS,
    "GetDispatch": _READERS,
    "RetryDispatch": _OWNERS,
    "CancelDispatch": _OWNERS,
    "WatchDispatches": _READERS,
    "ListGroups": _READERS,
    "GetStatus": _READERS,
}
