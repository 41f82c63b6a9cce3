"""GitHub, against a server that speaks its API: shapes, paging, limits, errors, and how an unknown end is found out."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from github_api import SHA, GitHub, rate_limited
from pydantic import SecretStr
from serving import serving
from starlette.responses import JSONResponse, Response, StreamingResponse

from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import ActionFailed, Effect, Environment, Refused, Result
from nanoclaw_broker.providers.github import provider
from nanoclaw_broker.providers.github.api import MOST_ANSWER, Unanswered
from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_core.errors import NanoclawError

TOKEN = "ghp_only-the-broker-has-it"


class Hub:
    """The provider in front of the server."""

    def __init__(self, server: GitHub, port: int) -> None:
        self.server = server
        config = {"github": {"base_url": f"http://127.0.0.1:{port}/api/v3", "repos": ["acme/shop", "other/*"]}}
        self.token = TOKEN
        self.provider = provider(Environment(Path("/nowhere"), "", lambda name: SecretStr(self.token), config))
        self.effect = Effect("01CALL", "developer", "t1", to_text(utc_now()))

    def given(self, action: str, params: dict[str, Any]) -> tuple[Any, Any]:
        acting = self.provider.by_name[action]
        checked = acting.params.model_validate({"repo": "acme/shop", **params})
        acting.check(checked)
        return acting, checked

    async def run(self, action: str, **params: Any) -> Result:
        acting, checked = self.given(action, params)
        result: Result = await acting.execute(checked, self.effect)
        return result

    async def verify(self, action: str, **params: Any) -> Result | None:
        acting, checked = self.given(action, params)
        result: Result | None = await acting.verify(checked, self.effect)
        return result


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    github = GitHub(TOKEN)
    async with serving(github.app()) as port:
        yield Hub(github, port)


WRITES: dict[str, dict[str, Any]] = {
    "create_issue": {"title": "It is broken", "body": "Very", "labels": ["bug"]},
    "comment": {"number": 1, "body": "Seen"},
    "create_branch": {"branch": "fix/one", "sha": SHA},
    "create_pull": {"title": "Mend it", "head": "fix/one", "base": "main"},
    "merge": {"number": 10, "sha": SHA},
    "release": {"tag": "v1", "name": "One", "target": "main"},
}


async def prepare(hub: Hub, action: str) -> None:
    """A pull request to merge."""
    if action == "merge":
        await hub.run("create_pull", **WRITES["create_pull"])


async def test_what_an_agent_gets_is_what_it_works_with(hub: Hub) -> None:
    """The members that matter, of each read."""
    await hub.run("create_issue", **WRITES["create_issue"])
    await hub.run("create_pull", **WRITES["create_pull"])
    await hub.run("comment", **WRITES["comment"])
    assert (await hub.run("get_repo")).data == {"full_name": "acme/shop", "default_branch": "main", "private": True}
    issue = (await hub.run("get_issue", number=1)).data
    assert (issue["title"], issue["user"], issue["labels"]) == ("It is broken", {"login": "bot"}, [{"name": "bug"}])
    assert (await hub.run("get_pull", number=10)).data["head"] == {"ref": "fix/one", "sha": SHA}
    assert (await hub.run("list_pull_files", number=10)).data["items"] == [
        {"filename": "a.py", "status": "modified", "patch": "@@"}
    ]
    assert (await hub.run("list_reviews", number=10)).data["items"][0]["user"] == {"login": "ann"}
    assert (await hub.run("list_branches")).data["items"] == [{"name": "main", "commit": {"sha": SHA}}]
    assert (await hub.run("get_file", path="docs/a b.md", ref="main")).data["path"] == "docs/a b.md"
    assert len((await hub.run("list_comments", number=1)).data["items"]) == 1
    assert len((await hub.run("list_pulls")).data["items"]) == 1


async def test_lists_are_paged(hub: Hub) -> None:
    """With the number of the next page, until there is none."""
    for number in range(5):
        await hub.run("create_issue", title=f"Issue {number}")
    seen, page = [], 1
    while page:
        found = (await hub.run("list_issues", per_page=2, page=page)).data
        seen += [issue["number"] for issue in found["items"]]
        page = found["next_page"]
    assert seen == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("action", WRITES)
async def test_what_was_done_without_a_reply_is_found_again(hub: Hub, action: str) -> None:
    """The server did it and then broke: not an answer, and afterwards it is found; before, it is not."""
    await prepare(hub, action)
    assert await hub.verify(action, **WRITES[action]) is None
    hub.server.after = lambda request: Response(status_code=502) if request.method != "GET" else None
    with pytest.raises(ConnectionError):
        await hub.run(action, **WRITES[action])
    hub.server.after = lambda request: None
    assert await hub.verify(action, **WRITES[action]) is not None


@pytest.mark.parametrize("action", ["create_issue", "create_pull", "comment", "release"])
async def test_what_somebody_else_made_alike_is_not_taken_for_it(hub: Hub, action: str) -> None:
    """The marker is the call's own."""
    mine = hub.effect
    hub.effect = Effect("01OTHER", "developer", "", mine.created_at)
    await hub.run(action, **WRITES[action])
    hub.effect = mine
    assert await hub.verify(action, **WRITES[action]) is None


async def test_it_is_found_among_many_and_behind_several_pages(hub: Hub) -> None:
    """Newest first, back to when the call was made."""
    await hub.run("create_issue", **WRITES["create_issue"])
    mine = hub.effect
    hub.server.issues += [hub.server.issues[0] | {"number": 2 + number, "body": "noise"} for number in range(150)]
    found = await hub.verify("create_issue", **WRITES["create_issue"])
    assert found is not None
    assert found.data["number"] == 1
    hub.effect = Effect("never", "developer", "", mine.created_at)
    assert await hub.verify("create_issue", **WRITES["create_issue"]) is None


async def test_a_merge_is_of_the_head_that_was_reviewed(hub: Hub) -> None:
    """Another head is refused; a second merge is too, and says so."""
    await prepare(hub, "merge")
    with pytest.raises(ActionFailed) as refused:
        await hub.run("merge", number=10, sha="c" * 40)
    assert refused.value.code == "GITHUB_CONFLICT"
    assert (await hub.run("merge", **WRITES["merge"])).data["merged"] is True
    with pytest.raises(ActionFailed) as refused:
        await hub.run("merge", **WRITES["merge"])
    assert refused.value.code == "GITHUB_REFUSED"


async def test_a_workflow_is_started_and_nobody_but_a_person_can_tell_whether_it_was(hub: Hub) -> None:
    """GitHub answers nothing to know the run by."""
    await hub.run("dispatch_workflow", workflow="ci.yml", ref="main", inputs={"why": "test"})
    assert hub.server.runs == [{"ref": "main", "inputs": {"why": "test"}}]
    assert hub.provider.by_name["dispatch_workflow"].unknown_ends_by is UnknownEnd.NONE


@pytest.mark.parametrize(
    ("response", "code", "said"),
    [
        (lambda: rate_limited(30), "GITHUB_RATE_LIMITED", "rate limit"),
        (lambda: rate_limited(30, 429), "GITHUB_RATE_LIMITED", "rate limit"),
        (lambda: JSONResponse({"message": "secondary"}, 403, {"retry-after": "7"}), "GITHUB_RATE_LIMITED", "secondary"),
        (lambda: JSONResponse({"message": "Not accessible"}, 403), "GITHUB_FORBIDDEN", "Not accessible"),
        (lambda: JSONResponse({"message": "Not Found"}, 404), "GITHUB_NOT_FOUND", "Not Found"),
        (lambda: JSONResponse({"message": "Gone"}, 410), "GITHUB_GONE", "Gone"),
        (lambda: Response("<html>", 418), "GITHUB_FAILED", "without saying why"),
        (
            lambda: JSONResponse({"message": "Moved"}, 301, {"location": "http://169.254.169.254"}),
            "GITHUB_MOVED",
            "Moved",
        ),
    ],
)
async def test_a_no_has_a_stable_code_and_githubs_own_words(hub: Hub, response: Any, code: str, said: str) -> None:
    """Of reads and writes alike; nothing was done, and there is a next step."""
    hub.server.before = lambda request: response()
    for action, params in (("get_repo", {}), ("create_issue", WRITES["create_issue"])):
        with pytest.raises(ActionFailed) as refused:
            await hub.run(action, **params)
        assert refused.value.code == code
        assert said in refused.value.message
        assert refused.value.next_steps
    if code == "GITHUB_RATE_LIMITED":
        assert 0 < int(refused.value.facts["retry_after_seconds"]) <= 60


async def test_validation_names_the_field(hub: Hub) -> None:
    """As GitHub's errors do."""
    with pytest.raises(ActionFailed, match=r"Issue\.title: invalid"):
        await hub.run("create_issue", title="bad")


async def test_a_token_that_is_refused_is_the_operators_matter_and_a_new_one_is_used_at_once(hub: Hub) -> None:
    """It is read for each request, and never shown."""
    hub.token = "an-old-token-of-long-ago"
    with pytest.raises(ActionFailed) as refused:
        await hub.run("get_repo")
    assert refused.value.code == "GITHUB_TOKEN_REFUSED"
    assert hub.token not in str(refused.value) + str(refused.value.facts)
    hub.token = TOKEN
    assert (await hub.run("get_repo")).data["full_name"] == "acme/shop"


async def test_certificate_authorities_are_read_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read for each request, they would hold up the whole broker for as long as several calls take."""
    await hub.run("get_repo")

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(ssl, "create_default_context", again)
    await hub.run("get_repo")


async def test_reads_are_tried_again_and_writes_are_not(hub: Hub) -> None:
    """A server that has trouble for a moment."""
    answers = iter([Response(status_code=503), Response(status_code=502)])
    hub.server.before = lambda request: next(answers, None)
    assert (await hub.run("get_repo")).data["full_name"] == "acme/shop"
    assert len(hub.server.requests) == 3
    hub.server.before = lambda request: Response(status_code=503)
    with pytest.raises(ActionFailed) as failed:
        await hub.run("get_repo")
    assert (failed.value.code, failed.value.in_trouble) == ("GITHUB_UNREACHABLE", True)
    hub.server.requests.clear()
    with pytest.raises(ConnectionError):
        await hub.run("comment", **WRITES["comment"])
    assert len(hub.server.requests) == 1


@pytest.mark.parametrize(
    ("action", "params", "code"),
    [
        ("get_repo", {"repo": "evil/shop"}, "REPO_NOT_ALLOWED"),
        ("get_file", {"path": "../../../../repos/evil/shop/contents/x"}, "NAME_NOT_ALLOWED"),
        ("get_file", {"path": "/etc"}, "NAME_NOT_ALLOWED"),
        ("get_repo", {"repo": "other/.."}, "NAME_NOT_ALLOWED"),
        ("create_branch", {"branch": "a/../b", "sha": SHA}, "NAME_NOT_ALLOWED"),
    ],
)
async def test_nothing_leads_out_of_the_repositories_on_the_list(
    hub: Hub, action: str, params: dict[str, Any], code: str
) -> None:
    """Neither another name nor dots in a path."""
    with pytest.raises(Refused) as refused:
        await hub.run(action, **params)
    assert (refused.value.code, hub.server.requests) == (code, [])


def test_levels_are_those_of_the_design(hub: Hub) -> None:
    """Reading L1; creating L2, to be verified; what can't be taken back L3."""
    levels = {action.name: action.level for action in hub.provider.actions}
    irrevocable = {"merge", "release", "dispatch_workflow"}
    assert {name for name, level in levels.items() if level is Level.L3} == irrevocable
    assert {name for name, level in levels.items() if level is Level.L2} == WRITES.keys() - irrevocable
    for action in hub.provider.actions:
        assert (action.kind is Kind.READ) is (action.level is Level.L1)


@pytest.mark.parametrize("config", [{"repos": ["acme"]}, {"repos": ["a/b/c"]}, {"base_url": "ftp://x"}, {"tokn": "x"}])
def test_settings_that_make_no_sense_stop_the_start(config: dict[str, Any]) -> None:
    """With the field."""
    with pytest.raises(NanoclawError, match=r"config/providers\.toml: github"):
        provider(Environment(Path("/nowhere"), config={"github": config}))


@pytest.mark.parametrize("status", [201, 422])
async def test_an_answer_without_an_end_is_not_read(hub: Hub, status: int) -> None:
    """In bounded memory: what was asked for may have been done, unless the status says that it was not."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"number": 1, "body": "'
        while sent < 100 * MOST_ANSWER:
            sent += 2**18
            yield b"x" * 2**18
            await asyncio.sleep(0)  # so that it is seen that nobody reads on

    hub.server.after = lambda request: StreamingResponse(endless(), status, media_type="application/json")
    with pytest.raises(Unanswered if status == 201 else ActionFailed) as failed:
        await hub.run("create_issue", **WRITES["create_issue"])
    assert sent < 3 * MOST_ANSWER
    if isinstance(failed.value, ActionFailed):
        assert failed.value.code == "GITHUB_REFUSED"


async def test_what_is_compressed_unasked_is_not_unpacked(hub: Hub) -> None:
    """A few kilobytes could become gigabytes."""
    asked = []

    def after(request: Any) -> Response:
        asked.append(request.headers["accept-encoding"])
        return Response(gzip.compress(b"{}"), 201, headers={"content-encoding": "gzip"})

    hub.server.after = after
    with pytest.raises(Unanswered, match="compressed"):
        await hub.run("create_issue", **WRITES["create_issue"])
    assert asked == ["identity"]
