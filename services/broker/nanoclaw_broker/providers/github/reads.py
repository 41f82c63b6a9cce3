"""Reading: repositories, issues, pull requests, their comments, reviews and files; L1."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import quote

from pydantic import Field, StringConstraints

from nanoclaw_broker.ledger import Kind
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import Effect, Result
from nanoclaw_broker.providers.github.repos import RepoAction, RepoParams
from nanoclaw_broker.providers.github.shapes import SHAPES, shaped

Ref = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$")]
Path = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f?#]{1,500}$")]


class PageParams(RepoParams):
    """A page of a list."""

    page: int = Field(default=1, ge=1, le=1000)
    per_page: int = Field(default=30, ge=1, le=100)


class ListParams(PageParams):
    """Issues or pull requests."""

    state: Annotated[str, StringConstraints(pattern="^(open|closed|all)$")] = "open"


class NumberParams(RepoParams):
    """An issue or a pull request."""

    number: int = Field(ge=1)


class NumberPageParams(PageParams):
    """A page of what hangs on an issue or a pull request."""

    number: int = Field(ge=1)


class FileParams(RepoParams):
    """A file."""

    path: Path
    ref: Ref | None = None


R = TypeVar("R", bound=RepoParams)


class Read(RepoAction[R]):
    """One GET. path: with the parameters' names in braces; what is not in it is the query."""

    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    path: ClassVar[str]
    shape: ClassVar[str]

    async def execute(self, params: R, effect: Effect) -> Result:
        """What it is, or a page of it with the number of the next."""
        given: Mapping[str, Any] = params.model_dump(exclude_none=True)
        path = "/repos/" + self.path.format(**{name: quote(str(value)) for name, value in given.items()})
        query = {name: value for name, value in given.items() if "{" + name + "}" not in self.path}
        answer = await self._api.get(path, query)
        pick = SHAPES[self.shape]
        if isinstance(answer.data, list):
            items = [shaped(item, pick) for item in answer.data]
            return Result({"items": items, "next_page": answer.next_page or None}, f"{len(items)} of {params.repo}")
        return Result(shaped(answer.data, pick), f"one of {params.repo}")


def _read(name: str, path: str, shape: str, params: type[RepoParams], description: str) -> type[Read[Any]]:
    members = {"name": name, "path": path, "shape": shape, "params": params, "description": description}
    return type(name, (Read,), {**members, "__doc__": f"{description}."})


READS: tuple[type[Read[Any]], ...] = (
    _read("get_repo", "{repo}", "repo", RepoParams, "a repository's facts"),
    _read("list_issues", "{repo}/issues", "issue", ListParams, "issues, newest first"),
    _read("get_issue", "{repo}/issues/{number}", "issue", NumberParams, "one issue"),
    _read("list_comments", "{repo}/issues/{number}/comments", "comment", NumberPageParams, "comments on it"),
    _read("list_pulls", "{repo}/pulls", "pull", ListParams, "pull requests, newest first"),
    _read("get_pull", "{repo}/pulls/{number}", "pull", NumberParams, "one pull request, with whether it can be merged"),
    _read(
        "list_pull_files",
        "{repo}/pulls/{number}/files",
        "file",
        NumberPageParams,
        "files that it changes",
    ),
    _read("list_reviews", "{repo}/pulls/{number}/reviews", "review", NumberPageParams, "reviews of a pull request"),
    _read("list_branches", "{repo}/branches", "branch", PageParams, "branches with their heads"),
    _read("get_file", "{repo}/contents/{path}", "content", FileParams, "a file's content, base64, at a ref"),
)
