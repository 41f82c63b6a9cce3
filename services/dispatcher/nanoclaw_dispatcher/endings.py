"""Who waits for a container's end is woken by the engine's events; one thread reads them."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator

import structlog

from nanoclaw_core.errors import NanoclawError
from nanoclaw_dispatcher.docker_engine import DockerEngine, Endings

log = structlog.get_logger()

_MOST_PAUSE = 5.0


class EndingsWatch:
    """The events of the containers with a label. `open` and `close` in the loop that waits."""

    def __init__(self, engine: DockerEngine, label: str) -> None:
        self._engine = engine
        self._label = label
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = threading.Event()
        self._stream: Endings | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Begins to read. An engine that is away is waited for."""
        self._loop = asyncio.get_running_loop()
        # A daemon: a read that never returns does not keep the dispatcher from ending.
        threading.Thread(target=self._read, name="docker-events", daemon=True).start()

    def close(self) -> None:
        """Reads no more."""
        self._closed.set()
        if (stream := self._stream) is not None:
            stream.close()

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when the container ends or disappears, and when ends may have been missed."""
        event = asyncio.Event()
        self._waiting[name].add(event)
        try:
            yield event
        finally:
            self._waiting[name].discard(event)
            if not self._waiting[name]:
                del self._waiting[name]

    def _read(self) -> None:
        pause = 0.1
        while not self._closed.is_set():
            try:
                self._stream = self._engine.endings(self._label)
                if self._closed.is_set():
                    self._stream.close()
                    return
                self._tell(None)  # what ended before we listened
                pause = 0.1
                for name in self._stream:
                    self._tell(name)
            except NanoclawError as error:
                if not self._closed.is_set():
                    log.warning(
                        "engine_events_wait", reason=error.reason, message=error.message, again_in_seconds=pause
                    )
            except Exception as error:  # a stream that breaks in the middle; waiters have their own net
                log.warning("engine_events_broke", error=repr(error), again_in_seconds=pause)
            self._closed.wait(pause)
            pause = min(pause * 2, _MOST_PAUSE)

    def _tell(self, name: str | None) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._set, name)

    def _set(self, name: str | None) -> None:
        for event in (
            self._waiting.get(name, ()) if name is not None else (e for s in self._waiting.values() for e in s)
        ):
            event.set()
