"""A vote on an L3 call: who may cast one, which ones count, and when the call that they are for is void; pure."""

from collections.abc import Collection
from dataclasses import dataclass

from nanoclaw_broker.policy import VOTES_NEEDED
from nanoclaw_core.principal import Caller

MAIN = "main"


@dataclass(frozen=True, slots=True)
class Vote:
    """One that was cast for a call. party: the group that it speaks for; an operator is a party of its own."""

    principal: str
    party: str
    params_digest: str

    @property
    def by_operator(self) -> bool:
        """Whether a person cast it."""
        return self.principal.startswith("operator:")


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a call rests on, as it was when it was asked for, or as it is now."""

    task_version: int
    capability_id: str
    capability_changes: int
    policy_version: str

    def moved(self, now: "Grounds") -> tuple[str, ...]:
        """What is not as it was: task, grant, policy."""
        grant = (self.capability_id, self.capability_changes) != (now.capability_id, now.capability_changes)
        changed = {
            "task": self.task_version != now.task_version,
            "grant": grant,
            "policy": self.policy_version != now.policy_version,
        }
        return tuple(name for name, differs in changed.items() if differs)


@dataclass(frozen=True, slots=True)
class Ballot:
    """The votes for a call that was asked for. params_digest: what a vote must be for. grounds: as they were then."""

    params_digest: str
    grounds: Grounds
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """What a call still needs. operator: whether one of the votes must be a person's."""

    votes: int
    operator: bool


def party_of(caller: Caller) -> str:
    """Whom a voter speaks for: its group, or itself."""
    return caller.group or caller.principal


def exclusion(principal: str, party: str, asked_by: str, executors: Collection[str]) -> str:
    """Why a principal has no vote on a call; empty where it has. asked_by: the group that asked for it."""
    if party == asked_by:
        return "asked for the call"
    if principal in executors or f"group:{party}" in executors:
        return "executed the task"
    return ""


def concerns(party: str, approver_group: str) -> bool:
    """Whether a group may vote at all: main, and the approver of the task's gate."""
    return party in (MAIN, approver_group)


def missing(ballot: Ballot | None, asked_by: str, executors: Collection[str], *, operator_needed: bool) -> Missing:
    """What is still needed, of votes of different parties for the very parameters, by those who have a vote now."""
    counting = [
        one
        for one in (ballot.votes if ballot is not None else ())
        if ballot is not None
        and one.params_digest == ballot.params_digest
        and not exclusion(one.principal, one.party, asked_by, executors)
    ]
    operator = operator_needed and not any(one.by_operator for one in counting)
    return Missing(max(VOTES_NEEDED - len({one.party for one in counting}), int(operator)), operator)
