"""One run of the command: which home, which operator, how to answer; and how a noun's coroutines become commands."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nanoclaw_cli.services import Service
from nanoclaw_core.ids import new_ulid

F = TypeVar("F", bound=Callable[..., Awaitable[None]])

Json = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
RequestId = Annotated[
    str, typer.Option("--request-id", help="Repeat under the same id and it happens once.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Invocation:
    """home: NANOCLAW_HOME. operator: who asks. as_json: answer for programs. request_id: of the mutation. secrets:
    NANOCLAW_SECRETS; None: home/secrets. at: the host whose ports the services listen on; empty: their sockets.
    """

    home: Path
    operator: str = "founder"
    as_json: bool = False
    request_id: str = ""
    secrets: Path | None = None
    at: str = ""

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    def target(self, service: Service) -> str:
        """The gRPC target of a service."""
        return f"{self.at}:{service.port}" if self.at else service.target(self.home)

    @property
    def token_file(self) -> Path:
        """The operator's credential."""
        return self.secrets_folder / "operators" / f"{self.operator}.token"


_current: ContextVar[Invocation] = ContextVar("invocation")


def current() -> Invocation:
    """This run."""
    return _current.get()


@contextmanager
def running(invocation: Invocation) -> Iterator[Invocation]:
    """Makes it the current one."""
    token = _current.set(invocation)
    try:
        yield invocation
    finally:
        _current.reset(token)


def command(app: typer.Typer, name: str | None = None, *, mutates: bool = False) -> Callable[[F], F]:
    """Registers a coroutine as a command, with `--json`, and with `--request-id` where it changes something.

    The coroutine itself is left as it is, so that it can stand under a second name.
    """

    def register(function: F) -> F:
        @functools.wraps(function)
        def run(as_json: bool = False, request_id: str = "", **arguments: Any) -> None:
            given = replace(current(), as_json=as_json, request_id=request_id or f"cli-{new_ulid()}")
            with running(given):
                asyncio.run(function(**arguments))  # type: ignore[arg-type]

        added: dict[str, tuple[Any, Any]] = {"as_json": (Json, False)}
        if mutates:
            added["request_id"] = (RequestId, "")
        signature = inspect.signature(function)
        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
            for key, (hint, default) in added.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, **{key: hint for key, (hint, _) in added.items()}}
        app.command(name)(run)
        return function

    return register
