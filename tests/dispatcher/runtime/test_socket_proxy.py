"""An engine behind a socket proxy: what docs/docker.md lists suffices, and what is not let through is said by name."""

import asyncio
import contextlib
import email.parser
import re
import socket
import socketserver
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import engines
import pytest
import pytest_asyncio

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher.runtime import RunState

pytestmark = pytest.mark.docker

DOCUMENT = (Path(__file__).parents[3] / "docs" / "docker.md").read_text()
LISTED = re.findall(r"^(GET|POST|DELETE) (/\S+)$", DOCUMENT, re.MULTILINE)


class Proxy(socketserver.ThreadingTCPServer):
    """Passes on what is allowed, one request for each connection; 403 for the rest."""

    def __init__(self, allowed: list[tuple[str, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Passage)
        pattern = "|".join(f"{verb} (?:/v[0-9.]+)?{path.replace('{name}', '[^/? ]+')}" for verb, path in allowed)
        self.allowed = re.compile(rf"(?:{pattern})(?:\?\S*)? HTTP/1.1")
        self.passed: set[str] = set()
        self.refused: list[str] = []
        self.engines: set[socket.socket] = set()
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()

    def close(self) -> None:
        """Cuts every connection, streams too."""
        self.shutdown()
        for engine in [*self.engines]:
            engine.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Passage(socketserver.StreamRequestHandler):
    """One connection."""

    server: Proxy

    def handle(self) -> None:
        line = self.rfile.readline().decode().rstrip()
        headers = email.parser.BytesParser().parsebytes(b"".join(iter(self.rfile.readline, b"\r\n")))
        body = self.rfile.read(int(headers.get("Content-Length", 0)))
        if not self.server.allowed.fullmatch(line):
            self.server.refused.append(line)
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.server.passed.add(re.sub(r" (?:/v[0-9.]+)?", " ", re.split(r"\?| HTTP", line)[0], count=1))
        del headers["Connection"]
        kept = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(engines.HOST.removeprefix("unix://"))
            self.server.engines.add(engine)
            engine.sendall(f"{line}\r\nConnection: close\r\n{kept}\r\n".encode() + body)
            with contextlib.suppress(ConnectionError):
                while chunk := engine.recv(1 << 16):
                    self.wfile.write(chunk)
            self.server.engines.discard(engine)


@pytest_asyncio.fixture
async def behind(home: Path, docker_place: Any) -> AsyncIterator[Any]:
    """`await behind(allowed)` answers a place whose engine is reached by TCP through a proxy, and the proxy."""
    if not engines.require_engine().startswith("unix://"):
        pytest.skip("the engine here has no socket to stand before")
    proxies, places = [], []

    async def open_place(allowed: list[tuple[str, str]]) -> tuple[Any, Proxy]:
        proxies.append(Proxy(allowed))
        host = f"tcp://127.0.0.1:{proxies[-1].server_address[1]}"
        places.append(docker_place(home, host, await asyncio.to_thread(engines.shell_image)))
        await places[-1].open()
        return places[-1], proxies[-1]

    yield open_place
    for place in places:
        await place.close()
    for proxy in proxies:
        await asyncio.to_thread(proxy.close)


async def test_the_calls_of_the_document_suffice(behind: Any) -> None:
    """A whole life, a stop, a kill and a sweep through a proxy that passes these and nothing else."""
    place, proxy = await behind(LISTED)
    await place.started("a-1", "polite")
    assert (await place.runtime.stop("a-1", 10)).exit_code == 5
    assert await place.said("a-1", "bye")
    assert await place.runtime.last_output_at("a-1")
    await place.started("a-2", "stubborn")
    assert (await place.runtime.stop("a-2", 0)).exit_code == 137
    assert len(await place.runtime.list()) == 2
    await place.runtime.remove("a-1")
    assert (await place.runtime.inspect("a-1")).state is RunState.ABSENT
    assert proxy.refused == []


async def test_no_call_of_the_document_is_idle(behind: Any) -> None:
    """Who grants a call that is not needed grants too much."""
    place, proxy = await behind(LISTED)
    await place.started("a-1", "polite")
    await place.runtime.stop("a-1", 10)
    await place.runtime.last_lines("a-1")
    await place.started("a-2", "stubborn")
    await place.runtime.stop("a-2", 0)
    await place.runtime.list()
    await place.runtime.remove("a-1")
    used = {re.sub(r"(/(?:containers|images)/)(?!json|create)[^/ ]+", r"\1{name}", call) for call in proxy.passed}
    assert used == {f"{verb} {path}" for verb, path in LISTED}


async def test_a_call_that_is_not_let_through_is_named(behind: Any) -> None:
    """PRECONDITION: somebody has to change the proxy, and the message says for what."""
    place, _ = await behind([(verb, path) for verb, path in LISTED if path != "/containers/create"])
    with pytest.raises(NanoclawError) as caught:
        await place.runtime.create(place.spec("a-1", "exit", "0"))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "ENGINE_FORBIDS")
    assert "create container" in caught.value.message
    assert "docs/docker.md" in caught.value.next_step
