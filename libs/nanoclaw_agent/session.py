"""One start of an agent: the line on stdin that opens it, and the result between markers that ends it."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from nanoclaw_agent.mailbox import Mailbox

OUTPUT_START = "---NANOCLAW_OUTPUT_START---"
OUTPUT_END = "---NANOCLAW_OUTPUT_END---"


class Opening(NamedTuple):
    """The JSON line that an agent gets on stdin."""

    prompt: str
    session_id: str = ""
    group_folder: str = ""
    chat_jid: str = ""
    is_main: bool = False
    task_id: str = ""
    attempt: str = ""

    @classmethod
    def read(cls, line: str) -> "Opening":
        """From the line. Raises ValueError where it is no opening."""
        value = json.loads(line)
        if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
            raise ValueError("the first line on stdin must be a JSON object with a prompt")
        return cls(
            prompt=value["prompt"],
            session_id=str(value.get("sessionId") or ""),
            group_folder=str(value.get("groupFolder") or ""),
            chat_jid=str(value.get("chatJid") or ""),
            is_main=bool(value.get("isMain")),
            task_id=str(value.get("taskId") or ""),
            attempt=str(value.get("attempt") or ""),
        )

    def line(self) -> str:
        """The line, with its line break; for whoever starts an agent."""
        value: dict[str, Any] = {"prompt": self.prompt}
        if self.session_id:
            value["sessionId"] = self.session_id
        value |= {
            "groupFolder": self.group_folder,
            "chatJid": self.chat_jid,
            "isMain": self.is_main,
            "taskId": self.task_id,
            "attempt": self.attempt,
        }
        return json.dumps(value, ensure_ascii=False) + "\n"


def later_prompts(mailbox: Mailbox, sleep: Callable[[float], None], seconds: float = 0.1) -> Iterator[str]:
    """The prompts that come while an agent runs, until the host closes its input."""
    while True:
        closed = mailbox.closed()
        yield from mailbox.prompts()
        if closed:
            return
        sleep(seconds)


def print_result(out: TextIO, status: str, result: str, session_id: str = "") -> None:
    """Prints the result (status `success` or `error`) where the host looks for it."""
    value = {"status": status, "result": result} | ({"newSessionId": session_id} if session_id else {})
    out.write(f"{OUTPUT_START}\n{json.dumps(value, ensure_ascii=False)}\n{OUTPUT_END}\n")
    out.flush()


def parse_result(text: str) -> Mapping[str, Any] | None:
    """The last result in what an agent printed, or None."""
    _, start, rest = text.rpartition(f"{OUTPUT_START}\n")
    body, end, _ = rest.partition(f"\n{OUTPUT_END}")
    if not start or not end:
        return None
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
