"""What the dispatcher's tests share."""

import importlib.util
import logging
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
import structlog

from nanoclaw_store.testing import invariants


def _load(name: str) -> ModuleType:
    """A module beside this file: test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


fake_runtime = _load("fake_runtime")
world_module = _load("world")


@pytest_asyncio.fixture
async def engine() -> AsyncIterator["fake_runtime.FakeEngine"]:
    """The far side of the fake runtime: `FakeRuntime(engine)` is a dispatcher's view of it."""
    engine = fake_runtime.FakeEngine()
    yield engine
    await engine.close()


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Only what went wrong is worth reading. No logger keeps that for the tests of others."""
    errors = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=errors, cache_logger_on_first_use=False)


@pytest_asyncio.fixture
async def world(home: Path, serve: Any, dial: Any, engine: "fake_runtime.FakeEngine") -> AsyncIterator[Any]:
    """Governance, a gateway and agents; `await world.dispatcher()` adds one. The invariants hold when it ends."""
    world = world_module.World(home, serve, dial, engine)
    await world.open()
    engine.agent = world_module.by_group(
        world,
        {
            "developer": world_module.hand_in,
            "writer": world_module.hand_in,
            "security": world_module.approve,
            "main": world_module.approve,
        },
    )
    yield world
    await world.close()
    invariants(home / "store" / "nanoclaw.db")
