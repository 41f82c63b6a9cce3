"""The demo's outside world: a small API on loopback that takes announcements for a token and keeps what it was sent."""

import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Sent:
    """One POST as it came. allowed: it bore the token, so it was answered 201."""

    path: str
    body: str
    allowed: bool


class Outside:
    """The API. token: what it wants as `Authorization: Bearer`; without it a request is answered 401.

    sent: every POST, in the order in which they came.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.sent: list[Sent] = []

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serves in a thread while the context lasts; answers its host and port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="outside", daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _take(self, path: str, authorization: str, body: str) -> tuple[int, dict[str, object]]:
        allowed = hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode())
        self.sent.append(Sent(path, body, allowed))
        return (201, {"id": len(self.sent), "published": True}) if allowed else (401, {"error": "no such token"})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0  # seconds that a silent peer is waited for

            def do_POST(self) -> None:
                """The only method that there is."""
                size = self.headers.get("content-length", "0")
                if not size.isdecimal() or int(size) > _MOST_BYTES:
                    self.send_error(413)
                    return
                body = self.rfile.read(int(size)).decode(errors="replace")
                status, answer = take(self.path, self.headers.get("authorization", ""), body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: object) -> None:
                """The demo shows what came; nothing goes to stderr."""

        return Handler
