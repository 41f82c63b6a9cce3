"""The providers of this broker: those built in, and those that installed packages offer."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import structlog
from pydantic import ValidationError

from nanoclaw_broker.facts import Problem, Skill
from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import Action, Environment, Params, Provider, Refused
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.errors import Kind as ErrorKind
from nanoclaw_core.errors import NanoclawError

log = structlog.get_logger()

GROUP = "nanoclaw.providers"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_PROBLEMS = 10

Factory = Callable[[Environment], Provider]
"""What an entry point of the group names."""


def load(
    environment: Environment, builtin: Iterable[Factory], found: Iterable[EntryPoint] | None = None
) -> list[Provider]:
    """Builds every provider; `found` stands for the entry points of the installed packages.

    Raises PROVIDER_NOT_LOADED, naming the package: a provider that is installed and can't work stops the start.
    """
    providers = [factory(environment) for factory in builtin]
    for point in sorted(entry_points(group=GROUP) if found is None else found, key=lambda point: point.name):
        try:
            provider = point.load()(environment)
            if not isinstance(provider, Provider):
                raise TypeError(f"it made a {type(provider).__name__}, not a Provider")
            providers.append(provider)
        except Exception as error:
            raise _not_loaded(point, error) from error
    return providers


def _not_loaded(point: EntryPoint, error: Exception) -> NanoclawError:
    package = point.dist.name if point.dist is not None else "an unnamed package"
    return NanoclawError(
        ErrorKind.INVALID,
        "PROVIDER_NOT_LOADED",
        f"{package} offers the provider {point.name} as {point.value}, which fails: {error}",
        next_step=f"repair or uninstall {package}",
    )


class Registry:
    """The providers by name. Raises PROVIDER_INVALID for one that the rules can't work with."""

    def __init__(self, providers: Sequence[Provider], secrets: Secrets) -> None:
        self.providers = sorted(providers, key=lambda provider: provider.name)
        self.names = tuple(provider.name for provider in self.providers)
        self._by_name = {provider.name: provider for provider in self.providers}
        self._secrets = secrets
        if len(self._by_name) != len(self.providers):
            raise _invalid("two providers have the same name: " + ", ".join(self.names))
        for provider in self.providers:
            _check(provider)

    async def start(self) -> None:
        """Makes the providers ready. Raises what they raise."""
        for provider in self.providers:
            if provider.start is not None:
                await provider.start()

    async def close(self) -> None:
        """Has every provider let go; one that fails does not keep the others."""
        closing = [provider.close() for provider in self.providers if provider.close is not None]
        for ended in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(ended, BaseException):
                log.error("provider_not_closed", error=type(ended).__name__)

    def get(self, name: str) -> Provider | None:
        """The provider of that name."""
        return self._by_name.get(name)

    def missing_secrets(self, provider: Provider) -> tuple[str, ...]:
        """Names of the secrets that it needs and that are not there now."""
        if not provider.required_secrets:
            return ()
        return tuple(name for name in provider.required_secrets if not self._secrets.has(name))

    @property
    def secrets(self) -> list[str]:
        """Names of all that the broker has now."""
        return self._secrets.names

    def find(self, name: str, action_name: str, raw: dict[str, Any]) -> tuple[Skill, Action[Any] | None, Params | None]:
        """What is known of an action asked for, the action, and its parameters where they fit."""
        provider = self._by_name.get(name)
        if provider is None:
            return Skill(providers=self.names), None, None
        missing = self.missing_secrets(provider)
        action = provider.by_name.get(action_name)
        if action is None:
            return Skill(self.names, provider.levels, missing, (), provider.unverified), None, None
        try:
            params = action.params.model_validate(raw)
            action.check(params)
        except ValidationError as error:
            return Skill(self.names, provider.levels, missing, _problems(error), provider.unverified), action, None
        except Refused as refused:
            problem = Problem(refused.code, refused.message, refused.next_step, refused.passing)
            return Skill(self.names, provider.levels, missing, (problem,), provider.unverified), action, None
        levels = provider.levels
        if (level := action.level_of(params)) is not action.level:
            levels = {**levels, action_name: level}
        cost = action.cost_micros(params)
        skill = Skill(self.names, levels, missing, (), provider.unverified, cost, _circuit(provider, action, params))
        return skill, action, params


def _circuit(provider: Provider, action: Action[Any], params: Params) -> str:
    """Whose breaker counts: none for what reaches nothing; the provider's, or that of what it reaches."""
    if action.kind is Kind.PURE:
        return ""
    reached = action.circuit(params)
    return f"{provider.name}:{reached}" if reached else provider.name


def _problems(error: ValidationError) -> tuple[Problem, ...]:
    """What the schema says, without any value that was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(
        Problem("INVALID_PARAMS", f"{'.'.join(str(part) for part in one['loc'])[:100] or 'params'}: {one['msg'][:200]}")
        for one in found[:_MOST_PROBLEMS]
    )


def _check(provider: Provider) -> None:
    for name in (provider.name, *(action.name for action in provider.actions)):
        if not _NAME.fullmatch(name):
            raise _invalid(f"provider {provider.name}: {name!r} is not a name like [a-z][a-z0-9_]*")
    if len(provider.by_name) != len(provider.actions) or not provider.actions:
        raise _invalid(f"provider {provider.name}: no action, or two of the same name")
    for action in provider.actions:
        if action.level is Level.L0 or (action.kind is Kind.MUTATING and action.level < Level.L2):
            raise _invalid(f"{provider.name} {action.name}: {action.kind} at {action.level.name} is not possible")
        if action.kind is Kind.PURE and action.level is Level.L3:
            raise _invalid(f"{provider.name} {action.name}: what changes nothing needs no votes")
        if action.kind is Kind.MUTATING and action.unknown_ends_by is UnknownEnd.NONE and action.level < Level.L3:
            raise _invalid(f"{provider.name} {action.name}: nobody can say what became of it, so it must be of L3")
        if action.unverified_level is not None and not _may_be_unverified(action):
            raise _invalid(f"{provider.name} {action.name}: unverified_level must be below level, and L2 if it mutates")
        if not issubclass(action.params, Params):
            raise _invalid(f"{provider.name} {action.name}: its parameters are not a Params")


def _may_be_unverified(action: Action[Any]) -> bool:
    least = Level.L2 if action.kind is Kind.MUTATING else Level.L1
    return action.unverified_level is not None and least <= action.unverified_level < action.level


def _invalid(message: str) -> NanoclawError:
    return NanoclawError(ErrorKind.INVALID, "PROVIDER_INVALID", message, next_step="repair or uninstall the provider")
