"""A mailbox on disk and a host that answers its files, until the real gateway stands at the far side."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SECRET = (Path(__file__).parent / "wire" / "ipc_secret").read_text().strip()

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


class Host:
    """Answers each request file of a mailbox from a thread; keeps what it saw, as text and as values."""

    def __init__(self, ipc: Path) -> None:
        self.ipc = ipc
        self.texts: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.answer: Answer = lambda request: {"status": "executed"}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)

    def snapshot(self, name: str, value: dict[str, Any]) -> None:
        (self.ipc / f"{name}.json").write_text(json.dumps(value))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The requests of one type."""
        return [request for request in self.requests if request["type"] == kind]

    def _run(self) -> None:
        while not self._stopping.wait(0.001):
            for file in sorted((self.ipc / "tasks").glob("*.json")):
                text = file.read_text(encoding="utf-8")
                file.unlink()
                request = json.loads(text)
                self.texts.append(text)
                self.requests.append(request)
                if (answer := self.answer(request)) is not None:
                    self._respond(request["request_id"], answer)

    def _respond(self, request_id: str, answer: dict[str, Any]) -> None:
        path = self.ipc / "responses" / f"{request_id}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"request_id": request_id, **answer}), encoding="utf-8")
        temporary.rename(path)


@pytest.fixture
def ipc(tmp_path: Path) -> Path:
    """An empty mailbox with the secret of the wire samples."""
    folder = tmp_path / "ipc"
    for name in ("tasks", "messages", "responses", "input"):
        (folder / name).mkdir(parents=True)
    (folder / ".ipc_secret").write_text(SECRET)
    return folder


@pytest.fixture
def host(ipc: Path) -> Iterator[Host]:
    """A host that answers `executed` to everything until told otherwise."""
    host = Host(ipc)
    host.start()
    yield host
    host.stop()
