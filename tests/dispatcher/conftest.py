"""What the dispatcher's tests share."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest_asyncio


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


@pytest_asyncio.fixture
async def engine() -> AsyncIterator["fake_runtime.FakeEngine"]:
    """The far side of the fake runtime: `FakeRuntime(engine)` is a dispatcher's view of it."""
    engine = fake_runtime.FakeEngine()
    yield engine
    await engine.close()
