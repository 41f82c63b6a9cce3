"""The `docker` runtime: each attempt is a container, next to ours on the engine, with the attempt's mounts only.

All that is known is with the engine and in a few files (container_state), so a new dispatcher adopts by looking. What a
death in the middle leaves behind:
- within `create`: a prepared folder without a container, which the next create goes on with, or a created container.
- within `start`: a created container, or a running one; the container itself refuses to run a second time.
- within `stop`: the engine counts the grace, and needs nobody for it.
- within `remove`: the attempt as it was, a folder with its end, or a hidden folder, which the next remove sweeps up.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import structlog

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import engine_errors
from nanoclaw_dispatcher.attempt_spec import AttemptSpec
from nanoclaw_dispatcher.container_site import Site
from nanoclaw_dispatcher.containers import Containers
from nanoclaw_dispatcher.docker_engine import DockerEngine
from nanoclaw_dispatcher.endings import EndingsWatch
from nanoclaw_dispatcher.runtime import Isolation, Observed

T = TypeVar("T")
log = structlog.get_logger()

_PATIENCE = 10.0
"""Seconds that an engine may take over the grace to end a container."""

_FIRST_LOOK = 2.0
"""Seconds that the start waits for the engine, only to say so if it does not answer."""

_LOOK_AGAIN = 15.0
"""Seconds after which a wait looks by itself: events may get lost where a proxy stands between."""


class DockerRuntime:
    """Attempts as containers of the engine at `host`, which may take `seconds` for an answer."""

    name = "docker"

    def __init__(self, site: Site, host: str, *, seconds: int = 30) -> None:
        self._engine = engine = DockerEngine(host, seconds)
        self._site = site
        self._seconds = seconds
        self._containers = Containers(engine, site)
        self._endings = EndingsWatch(engine, site.label)

    @property
    def isolation(self) -> Isolation:
        return Isolation.CONTAINER

    async def open(self) -> None:
        """An engine that is away is no reason to stay away too: what needs it waits, and says so."""
        try:
            (self._site.home / "attempts").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NanoclawError(
                Kind.UNAVAILABLE, "RUNTIME_UNAVAILABLE", f"the docker runtime: {error.strerror}", next_step="try again"
            ) from error
        self._endings.open()
        try:
            async with asyncio.timeout(_FIRST_LOOK):
                await self._call("list containers", self._containers.list)
        except NanoclawError as error:
            log.warning("engine_away", reason=error.reason, message=error.message, next_step=error.next_step)
        except TimeoutError:
            log.warning("engine_away", reason="ENGINE_SILENT", next_step="look at the engine's log")

    async def close(self) -> None:
        self._endings.close()
        self._engine.close()

    def has(self, attempt_id: str) -> bool:
        return self._site.folder(attempt_id).exists()

    async def create(self, spec: AttemptSpec) -> Observed:
        return await self._call("create", self._containers.create, spec)

    async def start(self, attempt_id: str) -> Observed:
        return await self._call("start", self._containers.start, attempt_id)

    async def inspect(self, attempt_id: str) -> Observed:
        return await self._call("inspect", self._containers.inspect, attempt_id)

    async def wait(self, attempt_id: str) -> Observed:
        while True:
            with self._endings.of(self._containers.name(attempt_id)) as ended:
                seen = await self.inspect(attempt_id)
                if not seen.alive:
                    return seen
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await ended.wait()

    async def stop(self, attempt_id: str, grace: float) -> Observed:
        seen = await self._call("seal", self._containers.seal, attempt_id)
        if not seen.alive:
            return seen
        over = asyncio.create_task(self.wait(attempt_id))
        # The engine counts in whole seconds, and goes on counting without us; what is finer we do.
        asked = asyncio.create_task(self._terminate(attempt_id, math.ceil(grace)))
        try:
            await asyncio.wait({over, asked}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                asked.result()
            elif not over.done():
                await self._call("kill", self._containers.kill, attempt_id)
            async with asyncio.timeout(_PATIENCE):
                return await over
        except TimeoutError:
            raise engine_errors.silent(f"the end of {attempt_id}", _PATIENCE) from None
        finally:
            over.cancel()
            asked.cancel()
            await asyncio.gather(over, asked, return_exceptions=True)

    async def _terminate(self, attempt_id: str, grace: int) -> None:
        if grace > 0:
            await self._call("stop", self._containers.stop, attempt_id, grace, more=grace)
        else:
            await self._call("kill", self._containers.kill, attempt_id)

    async def last_lines(self, attempt_id: str) -> str:
        return await self._call("read the output", self._containers.last_lines, attempt_id)

    async def last_output_at(self, attempt_id: str) -> str:
        return await self._call("read the output", self._containers.last_output_at, attempt_id)

    async def remove(self, attempt_id: str) -> None:
        await self._call("remove", self._containers.remove, attempt_id)

    async def list(self) -> list[Observed]:
        return await self._call("list containers", self._containers.list)

    async def _call(self, what: str, function: Callable[..., T], *args: Any, more: float = 0) -> T:
        """Runs a blocking call in a thread of its own. Every call to the engine has its time-out; if the thread is late
        all the same, it is left to itself, and keeps neither the dispatcher nor its end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(T, result))

        def run() -> None:
            result, failed = None, None
            try:
                result = function(*args)
            except BaseException as error:
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, result, failed)

        threading.Thread(target=run, name=f"docker-{what}", daemon=True).start()
        patience = 2.0 * self._seconds + more
        try:
            async with asyncio.timeout(patience):
                return await future
        except TimeoutError:
            raise engine_errors.silent(what, patience) from None
