"""Who may call which RPC; what a group may see of others is decided by `visibility.visible_group`."""

from nanoclaw_rpc import Access

_OPERATORS = frozenset({Access.ADMIN, Access.APPROVER, Access.VIEWER})
_READERS = _OPERATORS | {Access.GROUP, Access.SERVICE}

ACCESS: dict[str, frozenset[Access]] = {
    # An operator's calls need grants of their own (`operator:{name}`) and meet the same checks as a group's.
    "Call": frozenset({Access.GROUP, Access.ADMIN}),
    "ExplainCall": _READERS,
    "GetCall": _READERS,
    "ListCalls": _READERS,
    "Settle": frozenset({Access.ADMIN}),
    # Who may vote on which call is decided in `entitlement.py`; these may at all.
    "ListPendingCalls": _READERS,
    "ApproveCall": frozenset({Access.ADMIN, Access.APPROVER, Access.GROUP}),
    "RejectCall": frozenset({Access.ADMIN, Access.APPROVER, Access.GROUP}),
    "Freeze": frozenset({Access.ADMIN, Access.MAIN}),
    "Unfreeze": frozenset({Access.ADMIN}),
    "ListFreezes": _READERS,
    "Grant": frozenset({Access.ADMIN, Access.MAIN}),
    "Revoke": frozenset({Access.ADMIN, Access.MAIN}),
    "ListCapabilities": _READERS,
    "ListProviders": _READERS,
    "WatchCapabilities": _OPERATORS | {Access.SERVICE},
    "OpenRelay": frozenset({Access.DISPATCHER}),
    "CloseRelay": frozenset({Access.DISPATCHER}),
    "GetStatus": _READERS,
}

RUNTIME_ACCESS: dict[str, frozenset[Access]] = {
    "GetBudget": _READERS,
    # Main may lower a budget; what else is asked is decided in `budgeting`.
    "SetBudget": frozenset({Access.ADMIN, Access.MAIN}),
}
