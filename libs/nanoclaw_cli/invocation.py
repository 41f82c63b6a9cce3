"""One run of the command: which home, which operator, how to answer; and how a noun's coroutines become commands."""

import asyncio
import functools
import inspect
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nanoclaw_cli.addresses import Addresses
from nanoclaw_cli.services import Service
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_core.ids import new_ulid
from nanoclaw_rpc.tls import Tls, from_settings

DEFAULT_HOME = Path("var")

F = TypeVar("F", bound=Callable[..., Awaitable[None]])

Json = Annotated[bool, typer.Option("--json", help="Answer with JSON.")]
RequestId = Annotated[
    str, typer.Option("--request-id", help="Repeat under the same id and it happens once.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Invocation:
    """home: NANOCLAW_HOME. operator: who asks. as_json: answer for programs. request_id: of the mutation. secrets:
    NANOCLAW_SECRETS; None: home/secrets. at: where the services' ports are, see addresses.py; empty: their sockets.
    tls_enabled, tls_dir: whether those ports have TLS, and where the operator's certificate is.
    """

    home: Path
    operator: str = "founder"
    as_json: bool = False
    request_id: str = ""
    secrets: Path | None = None
    at: str = ""
    tls_enabled: bool = False
    tls_dir: Path | None = None

    @property
    def secrets_folder(self) -> Path:
        """Where tokens and keys lie."""
        return self.secrets or self.home / "secrets"

    def target(self, service: Service) -> str:
        """The gRPC target of a service."""
        return Addresses.parse(self.at).target(service) if self.at else service.target(self.home)

    @property
    def tls(self) -> Tls | None:
        """The operator's certificate, None for clear text and for sockets. Raises INVALID_SETTING, NOT_ENCRYPTED."""
        if not self.at:
            return None
        found = from_settings(self.secrets_folder, f"operator:{self.operator}", self.tls_enabled, self.tls_dir)
        if found is None and (remote := Addresses.parse(self.at).remote()):
            raise NanoclawError(
                Kind.INVALID,
                "NOT_ENCRYPTED",
                f"a token would travel to {', '.join(remote)} in clear text",
                next_step="use --tls with an operator's certificate (`nanoclaw certs operator`), or a tunnel",
            )
        return found

    @property
    def token_file(self) -> Path:
        """The operator's credential."""
        return self.secrets_folder / "operators" / f"{self.operator}.token"


def pasted(home: Path) -> str:
    """This command as it can be pasted into the shell that called it, for that home."""
    installed = Path(sys.executable).parent / "nanoclaw"
    on_path = shutil.which("nanoclaw")
    if on_path is not None and Path(on_path).absolute() == installed:
        name = "nanoclaw"
    else:
        name = str(installed.relative_to(Path.cwd()) if installed.is_relative_to(Path.cwd()) else installed)
    return shlex.quote(name) + ("" if home == DEFAULT_HOME.absolute() else f" --home {shlex.quote(str(home))}")


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


def command(
    app: typer.Typer, name: str | None = None, *, mutates: bool = False, bare: bool = False
) -> Callable[[F], F]:
    """Registers a coroutine as a command, with `--json`, and with `--request-id` where it changes something.

    bare: it is what a group of commands does where none of them is named. The coroutine itself is left as it is, so
    that it can stand under a second name.
    """

    def register(function: F) -> F:
        @functools.wraps(function)
        def run(as_json: bool = False, request_id: str = "", **arguments: Any) -> None:
            if bare and arguments.pop("context").invoked_subcommand:
                return
            given = replace(current(), as_json=as_json, request_id=request_id or f"cli-{new_ulid()}")
            with running(given):
                asyncio.run(function(**arguments))  # type: ignore[arg-type]

        added: dict[str, tuple[Any, Any]] = {"as_json": (Json, False)}
        if mutates:
            added["request_id"] = (RequestId, "")
        first = {"context": typer.Context} if bare else {}
        signature = inspect.signature(function)
        before = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=hint) for key, hint in first.items()
        ]
        extra = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
            for key, (hint, default) in added.items()
        ]
        run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *before, *extra])  # type: ignore[attr-defined]
        run.__annotations__ = {**function.__annotations__, **first, **{key: hint for key, (hint, _) in added.items()}}
        register_as = app.callback(invoke_without_command=True) if bare else app.command(name)
        register_as(run)
        return function

    return register
