"""Asking a model by the attempt's relay, for agents that want no SDK; answers are data, also when they are no."""

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from nanoclaw_agent.response import DENIED, EXECUTED, FAILED, TIMEOUT, Response

SECONDS = 600.0
"""How long an answer may take."""
_TRIES = 3
_MOST_PAUSE = 30.0
_STATUS = {403: DENIED, 504: TIMEOUT}


class Model:
    """One model behind the relay's socket. sleep: between tries."""

    def __init__(self, name: str, relay_socket: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._name = name
        self._relay_socket = relay_socket
        self._sleep = sleep

    def ask(self, prompt: str, *, max_tokens: int = 1024, system: str = "") -> Response:
        """Asks once, again only where the relay says that it may pass; `data` is the answer's text."""
        if not self._relay_socket:
            error = "this group has no relay"
            return Response(FAILED, "NO_RELAY", error=error, next_steps=("have an operator set relay = true for it",))
        asked = {"model": self._name, "max_tokens": max_tokens, "messages": [{"role": "user", "content": prompt}]}
        body = json.dumps({**asked, "system": system} if system else asked)
        for left in reversed(range(_TRIES)):
            answer, pause = self._once(body)
            if pause is None or not left:
                break
            self._sleep(min(pause, _MOST_PAUSE))
        return answer

    def _once(self, body: str) -> tuple[Response, float | None]:
        """The answer, and after which pause it may be asked for again; None: it would be the same."""
        connection = _Connection(self._relay_socket)
        try:
            connection.request("POST", "/v1/messages", body, {"content-type": "application/json"})
            response = connection.getresponse()
            value = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Response(FAILED, "RELAY_UNAVAILABLE", error=f"{type(error).__name__}: {error}"), 1.0
        finally:
            connection.close()
        if response.status == 200:
            text = "".join(str(one.get("text", "")) for one in value.get("content", ()) if one.get("type") == "text")
            return Response(EXECUTED, "OK", text, summary=f"{len(text)} characters of {self._name}"), None
        again = response.headers.get("x-should-retry") == "true"
        return _refusal(response.status, value), float(response.headers.get("retry-after") or 1) if again else None


def _refusal(status: int, value: Any) -> Response:
    error = value.get("error") if isinstance(value, dict) else None
    error = error if isinstance(error, dict) else {}
    return Response(
        _STATUS.get(status, FAILED),
        str(error.get("code") or f"HTTP_{status}"),
        error=str(error.get("message") or ""),
        facts=error.get("facts") or {},
        next_steps=tuple(map(str, error.get("next_steps") or ())),
    )


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("relay", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """To the socket; its path by itself may be longer than that of a socket may be."""
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(self._path)}")
        finally:
            os.close(folder)
