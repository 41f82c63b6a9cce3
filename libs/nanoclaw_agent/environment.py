"""The environment of a container: which directories are mounted where, and whose attempt runs in it.

The dispatcher writes these variables and an agent reads them; both sides take the names from here. NamedTuples stand
where the rest of the system has dataclasses: importing `dataclasses` costs a small agent half of its start-up time.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple


class Environment(NamedTuple):
    """Where an agent finds itself.

    ipc_dir: its mailbox. group_dir: its group's folder, which persists. group: its group's name. task_id and attempt:
    what it was started for; empty outside a dispatch. traceparent: the W3C context of the attempt's span, or empty.
    relay_socket: where it can ask models; empty where its group may not.
    """

    ipc_dir: str = "/workspace/ipc"
    group_dir: str = "/workspace/group"
    group: str = ""
    task_id: str = ""
    attempt: str = ""
    traceparent: str = ""
    relay_socket: str = ""

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> "Environment":
        """From variables; the ones that existing container agents know are understood too."""
        return cls(
            ipc_dir=environ.get("NANOCLAW_IPC_DIR", cls._field_defaults["ipc_dir"]),
            group_dir=environ.get("NANOCLAW_GROUP_DIR", cls._field_defaults["group_dir"]),
            group=environ.get("NANOCLAW_GROUP") or environ.get("NANOCLAW_GROUP_FOLDER", ""),
            task_id=environ.get("NANOCLAW_TASK_ID", ""),
            attempt=environ.get("NANOCLAW_ATTEMPT", ""),
            traceparent=environ.get("TRACEPARENT", ""),
            relay_socket=environ.get("NANOCLAW_RELAY_SOCKET", ""),
        )

    @property
    def attempt_number(self) -> int:
        """Which attempt this is, counted from 1; 1 where nobody said."""
        number = self.attempt.rpartition("-")[2]
        return int(number) if number.isdecimal() else 1

    def variables(self) -> dict[str, str]:
        """What `read` understands, for whoever starts an agent; the group's name under its older name too."""
        relay = {"NANOCLAW_RELAY_SOCKET": self.relay_socket} if self.relay_socket else {}
        return {
            "NANOCLAW_IPC_DIR": self.ipc_dir,
            "NANOCLAW_GROUP_DIR": self.group_dir,
            "NANOCLAW_GROUP": self.group,
            "NANOCLAW_GROUP_FOLDER": self.group,
            "NANOCLAW_CHAT_JID": f"group:{self.group}",
            "NANOCLAW_IS_MAIN": "1" if self.group == "main" else "0",
            "NANOCLAW_TASK_ID": self.task_id,
            "NANOCLAW_ATTEMPT": self.attempt,
            "TRACEPARENT": self.traceparent,
            **relay,
        }
