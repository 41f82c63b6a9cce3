"""A mailbox: request files out, response files, snapshots and later prompts in."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from nanoclaw_agent import wire
from nanoclaw_agent.response import FAILED, TIMEOUT, Response

SHORTEST_WAIT = 0.001
LONGEST_WAIT = 0.020
"""Seconds between two looks for an answer: the first ones come in about three milliseconds, and a slow one costs
fifty looks a second, which is nothing."""


class Mailbox:
    """The ipc directory of a container, with the clock and the waiting passed in."""

    def __init__(
        self,
        path: str,
        *,
        now_ns: wire.NowNs = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.now_ns = now_ns
        self._sleep = sleep
        self._monotonic = monotonic
        self._seen: set[str] = set()

    def secret(self) -> str:
        """The mailbox's signing key, as text. Raises OSError."""
        with open(os.path.join(self.path, ".ipc_secret"), encoding="ascii") as file:
            return file.read().strip()

    def post(self, folder: str, request: Mapping[str, Any]) -> Response | None:
        """Writes a request into `tasks` or `messages`; answers why it could not, or None once it lies there."""
        request_id = str(request.get("request_id", ""))
        try:
            content = wire.encode(request)
            if len(content) > wire.MAX_BYTES:
                raise ValueError(f"{len(content)} bytes are more than the {wire.MAX_BYTES} of a request file")
            wire.put(os.path.join(self.path, folder), f"{wire.new_id(self.now_ns())}.json", content)
        except ValueError as error:
            return Response(FAILED, "INVALID_REQUEST", error=str(error), request_id=request_id)
        except OSError as error:
            return unavailable(error, request_id)
        return None

    def await_response(self, request_id: str, timeout: float) -> Response:
        """Waits at most `timeout` seconds for `responses/{request_id}.json`."""
        path = os.path.join(self.path, "responses", f"{request_id}.json")
        deadline = self._monotonic() + timeout
        pause = SHORTEST_WAIT
        while True:
            try:
                value = wire.get(path)
            except ValueError:
                value = {}
            except OSError as error:
                return unavailable(error, request_id)
            if value is not None:
                return Response.read(value, request_id)
            left = deadline - self._monotonic()
            if left <= 0:
                return Response(
                    TIMEOUT,
                    "NO_ANSWER",
                    error=f"no answer within {timeout:g} seconds; whether it happened is not known",
                    next_steps=("ask again with the same idempotency_key, or read the snapshot before repeating it",),
                    request_id=request_id,
                )
            self._sleep(min(pause, left))
            pause = min(pause * 1.25, LONGEST_WAIT)

    def snapshot(self, name: str) -> dict[str, Any]:
        """A snapshot file's object, `gov_pipeline` for instance; empty where there is none that can be read."""
        try:
            value = wire.get(os.path.join(self.path, f"{name}.json"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {name: value} if isinstance(value, list) else {}

    def prompts(self) -> list[str]:
        """Texts of the `input/*.json` that came since the last call, oldest first."""
        folder = os.path.join(self.path, "input")
        texts = []
        for name in sorted(self._listed(folder)):
            if not name.endswith(".json") or name in self._seen:
                continue
            self._seen.add(name)
            try:
                value = wire.get(os.path.join(folder, name))
            except (OSError, ValueError):
                continue
            if isinstance(value, dict) and (text := value.get("text") or value.get("prompt")):
                texts.append(str(text))
        return texts

    def closed(self) -> bool:
        """Whether the host said that nothing more will come."""
        return os.path.exists(os.path.join(self.path, "input", "_close"))

    @staticmethod
    def _listed(folder: str) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError:
            return []


def unavailable(error: OSError, request_id: str = "") -> Response:
    """The mailbox itself does not work."""
    return Response(FAILED, "MAILBOX_UNAVAILABLE", error=str(error), request_id=request_id)
