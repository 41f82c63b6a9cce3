"""Who may call which RPC of the broker; what a group may see of others is decided in the servicer's `visible_group`."""

from nanoclaw_rpc import Access

_OPERATORS = frozenset({Access.ADMIN, Access.APPROVER, Access.VIEWER})
_READERS = _OPERATORS | {Access.GROUP, Access.SERVICE}

ACCESS: dict[str, frozenset[Access]] = {
    # Grants are for groups, so only a group can call; an operator who wants to know uses ExplainCall.
    "Call": frozenset({Access.GROUP}),
    "ExplainCall": _READERS,
    "GetCall": _READERS,
    "ListCalls": _READERS,
    "Grant": frozenset({Access.ADMIN, Access.MAIN}),
    "Revoke": frozenset({Access.ADMIN, Access.MAIN}),
    "ListCapabilities": _READERS,
    "ListProviders": _READERS,
    "WatchCapabilities": _OPERATORS | {Access.SERVICE},
    "GetStatus": _READERS,
}
