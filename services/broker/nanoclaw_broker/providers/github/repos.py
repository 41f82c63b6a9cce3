"""Which repositories may be touched, and what every action is told first."""

import re
from typing import Annotated, Generic, TypeVar

from pydantic import Field, StringConstraints

from nanoclaw_broker.providers.base import Action, Environment, FailureMode, Params, Refused
from nanoclaw_broker.providers.github.api import Api, GithubSection
from nanoclaw_core.errors import Kind, NanoclawError

Repo = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}$")]
_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/([A-Za-z0-9._-]{1,100}|\*)")

MODES = (
    FailureMode("GITHUB_RATE_LIMITED", "RESOURCE", 0.02),
    FailureMode("GITHUB_UNREACHABLE", "TRANSIENT", 0.01),
    FailureMode("GITHUB_NOT_FOUND", "VALIDATION", 0.03),
    FailureMode("GITHUB_REFUSED", "VALIDATION", 0.03),
)


_IN_PATHS = ("repo", "path", "ref", "branch", "base", "head", "tag", "target", "workflow")
"""What may stand in a URL's path: a segment `..` would lead to another repository."""


class RepoParams(Params):
    """What every action takes."""

    repo: Repo = Field(description="owner/name, of the operator's list")


P = TypeVar("P", bound=RepoParams)


class Repos:
    """The operator's list. Raises INVALID_SETTING."""

    def __init__(self, entries: list[str]) -> None:
        for entry in entries:
            if not _ENTRY.fullmatch(entry):
                raise NanoclawError(
                    Kind.INVALID,
                    "INVALID_SETTING",
                    f"config/providers.toml: github.repos: {entry!r} is not a repository",
                    next_step="write owner/name, or owner/*",
                )
        self._entries = {entry.lower() for entry in entries}

    def check(self, repo: str) -> None:
        """Raises Refused REPO_NOT_ALLOWED."""
        name = repo.lower()
        if name not in self._entries and name.partition("/")[0] + "/*" not in self._entries:
            step = "ask an operator to add it to config/providers.toml, [github] repos"
            raise Refused("REPO_NOT_ALLOWED", f"repo: {repo} is not on the list", step)


class RepoAction(Action[P], Generic[P]):
    """An action on one repository."""

    failure_modes = MODES

    def __init__(self, api: Api, repos: Repos) -> None:
        self._api = api
        self._repos = repos

    def check(self, params: P) -> None:
        """The repository is on the list, and no name leads out of it."""
        self._repos.check(params.repo)
        for field in _IN_PATHS:
            segments = str(getattr(params, field, "x") or "x").split("/")
            if any(segment in ("", ".", "..") for segment in segments):
                raise Refused("NAME_NOT_ALLOWED", f"{field}: has an empty segment, or one of dots", "name it plainly")

    def summary(self, params: P) -> str:
        """The repository; nothing of what is written."""
        return f"{self.name} in {params.repo}"


def made(environment: Environment, token: str) -> tuple[Api, Repos]:
    """By the settings. Raises INVALID_SETTING."""
    section = environment.section("github", GithubSection)
    return Api(section.base_url, lambda: environment.secret(token)), Repos(section.repos)
