"""Providers: found as entry points, refused with clear errors where they can't work."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from nanoclaw_broker.providers import Action, Effect, Environment, Kind, Level, Params, Provider, Result
from nanoclaw_broker.providers.builtin import BUILTIN
from nanoclaw_broker.registry import Registry, load
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.errors import NanoclawError


class Nothing(Params):
    """No parameters."""


class Noop(Action[Nothing]):
    """Does nothing."""

    name: ClassVar[str] = "noop"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.PURE
    description: ClassVar[str] = "nothing"
    params = Nothing

    async def execute(self, params: Nothing, effect: Effect) -> Result:
        return Result(None)


class Point:
    """An entry point as importlib.metadata gives it."""

    dist = None

    def __init__(self, name: str, made: Callable[[Environment], Any] | Exception) -> None:
        self.name, self.value, self._made = name, f"somewhere:{name}", made

    def load(self) -> Any:
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


def loaded(*points: Point, tmp_path: Any) -> Registry:
    environment = Environment(home=tmp_path)
    return Registry(load(environment, BUILTIN, points), Secrets(tmp_path / "secrets"))  # type: ignore[arg-type]


def test_the_built_in_ones_are_there(tmp_path: Any) -> None:
    """Without any configuration, each action with a schema for its parameters."""
    registry = loaded(tmp_path=tmp_path)
    assert len(registry.names) == len(BUILTIN)
    assert {"email", "http", "json", "llm", "logs", "sql"} <= set(registry.names)
    for provider in registry.providers:
        for action in provider.actions:
            assert '"type":"object"' in action.params_schema
            assert action.description


def test_a_broker_without_configuration_pays_for_no_heavy_library(tmp_path: Any) -> None:
    """They are imported at the first use, or where they are configured: the one of `mcp` alone takes 30 MB."""
    script = (
        "import sys, pathlib, nanoclaw_broker.__main__ as main\n"
        "main.registry.load(main.Environment(pathlib.Path(sys.argv[1])), main.BUILTIN, [])\n"
        "print(*{'mcp', 'httpx2', 'jsonschema', 'aiosmtplib', 'asyncpg'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_installed_packages_add_theirs(tmp_path: Any) -> None:
    """By the entry point group nanoclaw.providers."""
    registry = loaded(Point("extra", lambda _: Provider("extra", "more", (Noop(),))), tmp_path=tmp_path)
    assert set(registry.names) - set(loaded(tmp_path=tmp_path).names) == {"extra"}


def typed(**changes: Any) -> Noop:
    return type("Changed", (Noop,), changes)()


class Foreign(BaseModel):
    """Parameters that are not ours."""


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (ImportError("no module named x"), "PROVIDER_NOT_LOADED"),
        (lambda _: 1 / 0, "PROVIDER_NOT_LOADED"),
        (lambda _: "not a provider", "PROVIDER_NOT_LOADED"),
        (lambda _: Provider("json", "a second one", (Noop(),)), "PROVIDER_INVALID"),
        (lambda _: Provider("Bad Name", "x", (Noop(),)), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "no actions", ()), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "twice the same", (Noop(), Noop())), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "free for all", (typed(level=Level.L0),)), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "a write for readers", (typed(kind=Kind.MUTATING),)), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "no name", (typed(name="a.b"),)), "PROVIDER_INVALID"),
        (lambda _: Provider("x", "foreign parameters", (typed(params=Foreign),)), "PROVIDER_INVALID"),
    ],
)
def test_a_provider_that_cannot_work_stops_the_start(made: Any, reason: str, tmp_path: Any) -> None:
    """With the package and the fault by name, not later in the middle of a call."""
    with pytest.raises(NanoclawError) as raised:
        loaded(Point("bad", made), tmp_path=tmp_path)
    assert raised.value.reason == reason
    if reason == "PROVIDER_NOT_LOADED":
        assert "somewhere:bad" in raised.value.message
