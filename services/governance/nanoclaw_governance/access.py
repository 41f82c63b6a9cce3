"""Who may call which RPC; what a caller may do to a task beyond that is decided by its relation to it."""

from nanoclaw_rpc import Access

_OWNERS = frozenset({Access.ADMIN, Access.MAIN})
_WORKERS = frozenset({Access.ADMIN, Access.GROUP})
_JUDGES = _WORKERS | {Access.APPROVER}
_READERS = frozenset({Access.ADMIN, Access.APPROVER, Access.VIEWER, Access.MAIN, Access.SERVICE})
_TASK_READERS = _READERS | {Access.GROUP}  # a group: its own tasks, and those at its gate

ACCESS: dict[str, frozenset[Access]] = {
    "CreateProduct": _OWNERS,
    "UpdateProduct": _OWNERS,
    "GetProduct": _READERS,
    "ListProducts": _READERS,
    "CreateTask": _OWNERS,
    "GetTask": _TASK_READERS,
    "ListTasks": _TASK_READERS,
    "UpdateTask": _OWNERS,
    "AssignTask": _OWNERS,
    "TransitionTask": _JUDGES | {Access.DISPATCHER},
    "ExplainTransition": _TASK_READERS,
    "ApproveGate": _JUDGES,
    "ListApprovals": _TASK_READERS,
    "AddEvidence": _WORKERS,
    "SetChecklist": _WORKERS,
    "OverrideTask": _OWNERS,  # main only where the policy trusts it
    "GetContextPack": _TASK_READERS,
    "BindAttempt": frozenset({Access.DISPATCHER}),
    "ListActivities": _TASK_READERS,
    "WatchTasks": _READERS,
    "VerifyLog": _READERS,
    "GetPolicy": frozenset({Access.ANYONE}),
    "GetStatus": _READERS,
}
