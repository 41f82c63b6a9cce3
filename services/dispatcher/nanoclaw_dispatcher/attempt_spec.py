"""What an attempt is, to a runtime: whom it runs for, what it is told, where its mailbox lies."""

import re
from dataclasses import dataclass
from pathlib import Path

from nanoclaw_core.errors import invalid
from nanoclaw_dispatcher.groups import Group

_ATTEMPT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """Everything that a runtime needs to create an attempt; the same attempt_id always comes with the same spec.

    attempt_id: the container's name, `nc-{20 hex}-{number}`; `[a-z0-9-]`, at most 63 characters. group: from the
    configuration: command, limits, mounts. mailbox: absolute path of the attempt's ipc directory, as the gateway's
    OpenMailbox answers it (it has to exist when the attempt is started, not yet when it is created). stdin: the one
    JSON line that opens the agent, with its line break (`nanoclaw_agent.session.Opening.line()`). traceparent: W3C
    context of the attempt's span, or empty. relay: absolute path of the folder of its model relay, as the broker's
    OpenRelay answers it; None for a group without one. dispatch_key, task_id: labels, and what the agent learns.
    """

    attempt_id: str
    dispatch_key: str
    task_id: str
    group: Group
    mailbox: Path
    stdin: str
    traceparent: str = ""
    relay: Path | None = None

    def __post_init__(self) -> None:
        check_attempt_id(self.attempt_id)
        if not self.mailbox.is_absolute():
            raise invalid("mailbox", f"{self.mailbox} must be absolute", "give the gateway an absolute NANOCLAW_HOME")
        if self.relay is not None and not self.relay.is_absolute():
            raise invalid("relay", f"{self.relay} must be absolute", "give the broker an absolute NANOCLAW_HOME")


def check_attempt_id(attempt_id: str) -> str:
    """An attempt's id, which is a file's and a container's name too. Raises INVALID_FIELD."""
    if not _ATTEMPT_ID.fullmatch(attempt_id):
        raise invalid("attempt_id", "must match [a-z0-9][a-z0-9-]{0,62}", "name it like nc-0123abcd-1")
    return attempt_id
