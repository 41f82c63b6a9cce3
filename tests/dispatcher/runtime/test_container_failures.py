"""What goes wrong with an engine and its containers: each has a state or reason of its own, and what waits goes on."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import engines
import pytest
import pytest_asyncio
from own_engine import OwnEngine

from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_dispatcher import attempt_files as files
from nanoclaw_dispatcher import container_state
from nanoclaw_dispatcher.groups import Mount
from nanoclaw_dispatcher.runtime import EndReason, RunState

# The SDK leaves the socket of a refused connection to the garbage collector.
pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.fixture(scope="module")
def own_engine() -> Iterator[OwnEngine]:
    """One engine for this file's tests; each leaves it running."""
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="nc-engine-", dir="/tmp")), 48)
    try:
        yield engine
    finally:
        engine.close()


@pytest_asyncio.fixture
async def apart(home: Path, own_engine: OwnEngine, docker_place: Any) -> AsyncIterator[Any]:
    """A place on that engine."""
    place = docker_place(home, own_engine.host, engines.shell_image(own_engine.host))
    try:
        await place.open()
        yield place
    finally:
        await place.close()


async def test_an_image_that_is_missing_is_said_so_and_what_to_do(containers: Any) -> None:
    """PRECONDITION: trying again won't help, and nothing is pulled behind anybody's back. Then it is there."""
    with pytest.raises(NanoclawError) as caught:
        await containers.runtime.create(containers.spec("a-1", "exit", "3", image="nanoclaw-no-such-image"))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "IMAGE_MISSING")
    assert "nanoclaw-no-such-image" in caught.value.message
    assert (await containers.runtime.inspect("a-1")).state is RunState.ABSENT
    await containers.started("a-1", "exit", "3")
    assert (await containers.runtime.wait("a-1")).exit_code == 3


async def test_want_of_memory_is_named(containers: Any) -> None:
    """The kernel kills it at its limit; the state says why, and not that the agent failed."""
    hungry = ("/bin/sh", "-c", 'x=0123456789abcdef; while :; do x="$x$x"; done')
    await containers.started("a-1", "", command=hungry, memory_mb=16)
    ended = await containers.runtime.wait("a-1")
    assert (ended.state, ended.exit_code, ended.reason) == (RunState.EXITED, 137, EndReason.OUT_OF_MEMORY)


async def test_an_end_that_was_told_stays_even_if_the_container_is_pruned(containers: Any) -> None:
    """`docker container prune` takes what has exited; whoever asks again gets the same answer."""
    await containers.started("a-1", "exit", "3")
    ended = await containers.runtime.wait("a-1")
    await containers.lose("a-1")
    assert await (await containers.successor()).inspect("a-1") == ended
    assert [seen.state for seen in await containers.runtime.list()] == [RunState.EXITED]
    assert await containers.runtime.start("a-1") == ended


async def test_one_that_was_created_and_pruned_can_be_created_again(containers: Any) -> None:
    """It never ran, so nothing is lost."""
    await containers.runtime.create(containers.spec("a-1", "exit", "3"))
    await containers.lose("a-1")
    assert (await containers.runtime.inspect("a-1")).state is RunState.ABSENT
    await containers.started("a-1", "exit", "3")
    assert (await containers.runtime.wait("a-1")).exit_code == 3


async def test_what_a_death_within_create_leaves_is_swept(containers: Any) -> None:
    """A prepared folder that never got its container is in the list, can be sealed, and removed."""
    await containers.runtime.create(containers.spec("a-1", "exit", "3"))
    await containers.lose("a-1")
    assert [seen.state for seen in await containers.runtime.list()] == [RunState.CREATED]
    sealed = await containers.runtime.stop("a-1", 0)
    assert (sealed.state, sealed.reason) == (RunState.EXITED, EndReason.STOPPED)
    await containers.runtime.remove("a-1")
    assert await containers.runtime.list() == []


async def test_an_engine_that_is_asked_to_start_it_again_does_not_run_it_again(containers: Any) -> None:
    """A start that a dead dispatcher asked for may come late: the agent ran once, and the state is honest."""
    await containers.runtime.create(containers.spec("a-1", "exit", "3"))
    with engines.client() as api:
        for _ in range(2):
            api.start(containers.name("a-1"))
            api.wait(containers.name("a-1"))
    assert (await containers.runtime.inspect("a-1")).state is RunState.LOST
    assert containers.runs("a-1") == 1


async def test_a_command_that_the_engine_cannot_start_is_an_end_with_its_words(containers: Any) -> None:
    """A mount that can't be made fails at the start, and its own attempt only."""
    (containers.home / "file").write_text("x")
    mount = Mount(str(containers.home.parent / "no-such-folder-of-ours"), "/data")
    with pytest.raises(NanoclawError) as caught:
        await containers.runtime.create(containers.spec("a-1", "exit", "0", mounts=(mount,)))
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "DATA_NOT_ON_ENGINE")
    fleeting = containers.home.parent / f"{containers.home.name}-mount"
    fleeting.mkdir()
    await containers.runtime.create(containers.spec("a-2", "exit", "0", mounts=(Mount(str(fleeting), "/data"),)))
    fleeting.rmdir()
    ended = await containers.runtime.start("a-2")
    assert (ended.state, ended.exit_code, ended.reason) == (RunState.EXITED, 126, EndReason.START_FAILED)
    assert fleeting.name in await containers.runtime.last_lines("a-2")
    assert await containers.runtime.inspect("a-2") == ended


async def test_a_name_that_another_home_has_taken_is_refused(containers: Any, docker_place: Any) -> None:
    """Two installations on one engine never take each other's containers for their own."""
    await containers.started("a-1", "wait")
    with tempfile.TemporaryDirectory(prefix="nc-", dir="/tmp") as folder:
        other = docker_place(Path(folder), containers.host, containers.site.image, prefix=containers.site.prefix)
        await other.open()
        assert await other.runtime.list() == []
        assert (await other.runtime.inspect("a-1")).state is RunState.ABSENT
        with pytest.raises(NanoclawError) as caught:
            await other.runtime.create(other.spec("a-1", "exit", "0"))
        assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "CONTAINER_NAME_TAKEN")
        await other.runtime.stop("a-1", 0)
        await other.runtime.remove("a-1")
        await other.close()
    assert (await containers.runtime.inspect("a-1")).alive


async def test_a_mailbox_that_agents_cannot_enter_is_refused_with_the_setting(containers: Any) -> None:
    """Else the agent would work and never be heard."""
    spec = containers.spec("a-1", "exit", "0")
    spec.mailbox.chmod(0o700)
    if os.getuid() == containers.uid:
        spec.mailbox.chmod(0)
    await containers.runtime.create(spec)
    with pytest.raises(NanoclawError) as caught:
        await containers.runtime.start("a-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "MAILBOX_SHUT")
    assert "NANOCLAW_GATEWAY_AGENT_UID" in caught.value.next_step


async def test_an_engine_that_is_killed_and_comes_back_leaves_honest_states(apart: Any, own_engine: OwnEngine) -> None:
    """While it is away, UNAVAILABLE; then what ran has ended, what was created still starts, and waits are woken."""
    await apart.started("a-1", "wait")
    await apart.runtime.create(apart.spec("a-2", "exit", "4"))
    waiting = asyncio.create_task(_steadily(lambda: apart.runtime.wait("a-1")))
    own_engine.signal(signal.SIGKILL)
    with pytest.raises(NanoclawError) as caught:
        await apart.runtime.inspect("a-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "ENGINE_UNREACHABLE")
    await asyncio.to_thread(own_engine.start)
    ended = await waiting
    assert ended.state is RunState.EXITED
    assert apart.runs("a-1") == 1
    assert await apart.runtime.start("a-1") == ended
    await apart.runtime.start("a-2")
    assert (await apart.runtime.wait("a-2")).exit_code == 4


async def test_an_engine_that_hangs_hangs_nobody(apart: Any, own_engine: OwnEngine) -> None:
    """Calls end in UNAVAILABLE, the loop goes on beside them; an engine that wakes up is used again."""
    await apart.started("a-1", "wait")
    apart.seconds = 2
    impatient = await apart.successor()
    own_engine.signal(signal.SIGSTOP)
    began, ticks = time.monotonic(), 0
    calls = asyncio.gather(impatient.inspect("a-1"), impatient.start("a-1"), impatient.list(), return_exceptions=True)
    while not calls.done():
        await asyncio.sleep(0.01)
        ticks += 1
    own_engine.signal(signal.SIGCONT)
    assert time.monotonic() - began < 10
    assert ticks > 50
    assert {error.reason for error in await calls} == {"ENGINE_SILENT"}
    assert (await _steadily(lambda: impatient.inspect("a-1"))).alive
    assert (await apart.runtime.stop("a-1", 0)).exit_code == 137


async def test_a_full_disk_passes(apart: Any, own_engine: OwnEngine) -> None:
    """UNAVAILABLE by its own name, nothing is left behind, and the same attempt goes on once there is space."""
    await apart.started("a-1", "exit", "0")  # the image is unpacked, the engine has what it needs
    await apart.runtime.wait("a-1")
    filler = own_engine.fill()
    try:
        with pytest.raises(NanoclawError) as caught:
            await apart.runtime.create(apart.spec("a-2", "exit", "5"))
            await apart.runtime.start("a-2")
        assert (caught.value.kind, caught.value.reason) == (Kind.UNAVAILABLE, "ENGINE_DISK_FULL")
        assert not (await apart.runtime.inspect("a-2")).over
    finally:
        filler.unlink()
    await apart.started("a-2", "exit", "5")
    assert (await apart.runtime.wait("a-2")).exit_code == 5


async def test_the_grace_runs_out_without_the_dispatcher(containers: Any) -> None:
    """The engine counts it: a dispatcher that dies in the middle of a stop leaves nobody behind."""
    await containers.started("a-1", "stubborn")
    stopping = asyncio.create_task(containers.runtime.stop("a-1", 1))
    await containers.until(lambda: containers.said("a-1", "heard"))
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    ended = await (await containers.successor()).wait("a-1")
    assert (ended.exit_code, ended.reason) == (137, EndReason.STOPPED)


async def test_a_start_that_a_dispatcher_died_in_is_finished_by_the_next(containers: Any) -> None:
    """It had asked, and nothing runs: the next one asks again. It had asked, and the container is gone: LOST."""
    for attempt_id in ("a-1", "a-2"):
        await containers.runtime.create(containers.spec(attempt_id, "exit", "3"))
        files.write(str(containers.site.folder(attempt_id)), container_state.ASKED, {"at": files.now_text()})
    other = await containers.successor()
    await other.start("a-1")
    assert (await other.wait("a-1")).exit_code == 3
    await containers.lose("a-2")
    assert (await other.inspect("a-2")).state is RunState.LOST


async def _steadily(call: Any) -> Any:
    while True:
        try:
            return await call()
        except NanoclawError as error:
            if error.kind is not Kind.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)
