"""Writing, L2: issues, comments, branches, pull requests; found again by a marker in what was created."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, StringConstraints

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import Effect, Result
from nanoclaw_broker.providers.github.reads import Ref
from nanoclaw_broker.providers.github.repos import RepoAction, RepoParams
from nanoclaw_broker.providers.github.shapes import created

Title = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Body = Annotated[str, StringConstraints(max_length=60_000)]
Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
_PAGES = 10


class IssueParams(RepoParams):
    """A new issue."""

    title: Title
    body: Body = ""
    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=50)], ...] = Field(
        default=(), max_length=20, strict=False
    )


class CommentParams(RepoParams):
    """A comment on an issue or a pull request."""

    number: int = Field(ge=1)
    body: Annotated[str, StringConstraints(min_length=1, max_length=60_000)]


class BranchParams(RepoParams):
    """A new branch."""

    branch: Ref
    sha: Sha = Field(description="the commit that it points at")


class PullParams(RepoParams):
    """A new pull request."""

    title: Title
    head: Ref = Field(description="the branch with the changes")
    base: Ref = Field(description="the branch that they shall go to")
    body: Body = ""
    draft: bool = False


W = TypeVar("W", bound=RepoParams)


class Write(RepoAction[W]):
    """What the writing actions have in common."""

    level: ClassVar[Level] = Level.L2
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.VERIFY

    async def _listed(self, path: str, query: dict[str, Any], effect: Effect) -> dict[str, Any] | None:
        """The one with the call's marker, in a list with the newest first; nothing older than the call can be it."""
        page = 1
        for _ in range(_PAGES):
            answer = await self._api.get(path, {**query, "per_page": 100, "page": page})
            for one in answer.data:
                if marker(effect) in (one.get("body") or ""):
                    return dict(one)
            page = answer.next_page
            if not page or (answer.data and answer.data[-1]["created_at"] < _second(effect)):
                return None
        raise ConnectionError("too many are newer to tell")


def marker(effect: Effect) -> str:
    """What a call leaves in what it creates; GitHub does not show it."""
    return f"<!-- nanoclaw:{effect.key} -->"


def marked(body: str, effect: Effect) -> str:
    """A text with the call's marker."""
    return f"{body}\n\n{marker(effect)}" if body else marker(effect)


def _second(effect: Effect) -> str:
    """When the call was made, as GitHub writes times."""
    return effect.created_at[:19] + "Z"


class CreateIssue(Write[IssueParams]):
    """Opens an issue."""

    name: ClassVar[str] = "create_issue"
    description: ClassVar[str] = "open an issue"
    params = IssueParams

    async def execute(self, params: IssueParams, effect: Effect) -> Result:
        """The issue."""
        body = {"title": params.title, "body": marked(params.body, effect), "labels": list(params.labels)}
        answer = await self._api.send("POST", f"/repos/{params.repo}/issues", body)
        return _result(answer.data, "issue", params.repo)

    async def verify(self, params: IssueParams, effect: Effect) -> Result | None:
        """Among the newest issues."""
        query = {"state": "all", "sort": "created", "direction": "desc"}
        found = await self._listed(f"/repos/{params.repo}/issues", query, effect)
        return _result(found, "issue", params.repo) if found is not None else None


class Comment(Write[CommentParams]):
    """Comments on an issue or a pull request."""

    name: ClassVar[str] = "comment"
    description: ClassVar[str] = "comment on an issue or a pull request"
    params = CommentParams

    async def execute(self, params: CommentParams, effect: Effect) -> Result:
        """The comment."""
        path = f"/repos/{params.repo}/issues/{params.number}/comments"
        answer = await self._api.send("POST", path, {"body": marked(params.body, effect)})
        return _result(answer.data, "comment", f"{params.repo}#{params.number}")

    async def verify(self, params: CommentParams, effect: Effect) -> Result | None:
        """Among the comments since the call."""
        path, page = f"/repos/{params.repo}/issues/{params.number}/comments", 1
        while page:
            answer = await self._api.get(path, {"since": _second(effect), "per_page": 100, "page": page})
            for one in answer.data:
                if marker(effect) in (one.get("body") or ""):
                    return _result(one, "comment", f"{params.repo}#{params.number}")
            page = answer.next_page
        return None


class CreateBranch(Write[BranchParams]):
    """Makes a branch."""

    name: ClassVar[str] = "create_branch"
    description: ClassVar[str] = "make a branch that points at a commit"
    params = BranchParams

    async def execute(self, params: BranchParams, effect: Effect) -> Result:
        """The ref."""
        body = {"ref": f"refs/heads/{params.branch}", "sha": params.sha}
        answer = await self._api.send("POST", f"/repos/{params.repo}/git/refs", body)
        return _result(answer.data, "ref", params.repo)

    async def verify(self, params: BranchParams, effect: Effect) -> Result | None:
        """A branch of that name is what was asked for, whoever made it; git keeps no marker."""
        found = await self._api.find(f"/repos/{params.repo}/git/ref/heads/{params.branch}")
        return _result(found, "ref", params.repo) if found is not None else None


class CreatePull(Write[PullParams]):
    """Opens a pull request."""

    name: ClassVar[str] = "create_pull"
    description: ClassVar[str] = "open a pull request"
    params = PullParams

    async def execute(self, params: PullParams, effect: Effect) -> Result:
        """The pull request."""
        body = params.model_dump(include={"title", "head", "base", "draft"}) | {"body": marked(params.body, effect)}
        answer = await self._api.send("POST", f"/repos/{params.repo}/pulls", body)
        return _result(answer.data, "pull", params.repo)

    async def verify(self, params: PullParams, effect: Effect) -> Result | None:
        """Among the newest pull requests."""
        query = {"state": "all", "sort": "created", "direction": "desc"}
        found = await self._listed(f"/repos/{params.repo}/pulls", query, effect)
        return _result(found, "pull", params.repo) if found is not None else None


def _result(data: Any, shape: str, where: str) -> Result:
    return Result(created(data, shape), f"{shape} in {where}")


WRITES: tuple[type[Write[Any]], ...] = (CreateIssue, Comment, CreateBranch, CreatePull)
