"""What can't be taken back, L3: merging, releasing, starting workflows."""

import json
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, StringConstraints

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.base import Effect, Result
from nanoclaw_broker.providers.github.reads import Ref
from nanoclaw_broker.providers.github.repos import RepoAction, RepoParams
from nanoclaw_broker.providers.github.shapes import SHAPES, created, shaped
from nanoclaw_broker.providers.github.writes import Body, Sha, Title, marked, marker


class MergeParams(RepoParams):
    """A pull request at the very commit that was reviewed."""

    number: int = Field(ge=1)
    sha: Sha = Field(description="the head that was reviewed; another one is not merged")
    method: Annotated[str, StringConstraints(pattern="^(merge|squash|rebase)$")] = "merge"


class ReleaseParams(RepoParams):
    """A release of a tag."""

    tag: Ref
    target: Ref | None = Field(default=None, description="branch or commit, where the tag is not there yet")
    name: Title
    body: Body = ""
    prerelease: bool = False


class DispatchParams(RepoParams):
    """A run of a workflow."""

    workflow: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,200}$")] = Field(
        description="file name or id"
    )
    ref: Ref
    inputs: dict[str, str] = Field(default_factory=dict, max_length=10)


A = TypeVar("A", bound=RepoParams)


class Irrevocable(RepoAction[A]):
    """What the three have in common."""

    level: ClassVar[Level] = Level.L3
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.VERIFY

    def render(self, params: A) -> str:
        """What would be done, in words, and with which parameters."""
        told = json.dumps(params.model_dump(mode="json"), indent=2, ensure_ascii=False)
        return f"{self.description}, in {params.repo}:\n{told}"


class Merge(Irrevocable[MergeParams]):
    """Merges a pull request."""

    name: ClassVar[str] = "merge"
    description: ClassVar[str] = "merge a pull request at a given head"
    params = MergeParams

    async def execute(self, params: MergeParams, effect: Effect) -> Result:
        """The merge."""
        body = {"sha": params.sha, "merge_method": params.method}
        answer = await self._api.send("PUT", f"/repos/{params.repo}/pulls/{params.number}/merge", body)
        return Result(created(answer.data, "merge"), f"merged {params.repo}#{params.number}")

    async def verify(self, params: MergeParams, effect: Effect) -> Result | None:
        """It is merged at that head, by whomever."""
        pull = (await self._api.get(f"/repos/{params.repo}/pulls/{params.number}")).data
        if not (pull["merged"] and pull["head"]["sha"] == params.sha):
            return None
        return Result({"sha": pull["merge_commit_sha"], "merged": True}, f"merged {params.repo}#{params.number}")


class Release(Irrevocable[ReleaseParams]):
    """Publishes a release."""

    name: ClassVar[str] = "release"
    description: ClassVar[str] = "publish a release"
    params = ReleaseParams

    async def execute(self, params: ReleaseParams, effect: Effect) -> Result:
        """The release."""
        body: dict[str, Any] = {
            "tag_name": params.tag,
            "name": params.name,
            "body": marked(params.body, effect),
            "prerelease": params.prerelease,
        }
        if params.target is not None:
            body["target_commitish"] = params.target
        answer = await self._api.send("POST", f"/repos/{params.repo}/releases", body)
        return Result(created(answer.data, "release"), f"released {params.tag} of {params.repo}")

    async def verify(self, params: ReleaseParams, effect: Effect) -> Result | None:
        """By its tag and marker."""
        found = await self._api.find(f"/repos/{params.repo}/releases/tags/{params.tag}")
        if found is None or marker(effect) not in (found.get("body") or ""):
            return None
        return Result(shaped(found, SHAPES["release"]), f"released {params.tag} of {params.repo}")


class Dispatch(Irrevocable[DispatchParams]):
    """Starts a workflow."""

    name: ClassVar[str] = "dispatch_workflow"
    description: ClassVar[str] = "start a run of a workflow"
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.NONE
    params = DispatchParams

    async def execute(self, params: DispatchParams, effect: Effect) -> Result:
        """That it was taken; GitHub says nothing more."""
        path = f"/repos/{params.repo}/actions/workflows/{params.workflow}/dispatches"
        await self._api.send("POST", path, {"ref": params.ref, "inputs": params.inputs})
        return Result({"dispatched": True}, f"started {params.workflow} of {params.repo}")


IRREVOCABLE: tuple[type[Irrevocable[Any]], ...] = (Merge, Release, Dispatch)
