"""A server that speaks the part of GitHub's documented REST API that the provider uses, for its tests."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SHA = "a" * 40


class GitHub:
    """One repository, acme/shop, with its issues, pull requests, refs and releases."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.issues: list[dict[str, Any]] = []
        self.comments: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.refs = {"main": SHA}
        self.releases: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.before: Callable[[Request], Response | None] = lambda request: None
        self.after: Callable[[Request], Response | None] = lambda request: None

    def app(self) -> Starlette:
        """The server."""
        routes = {
            ("GET", ""): self.repo,
            ("GET", "/issues"): lambda request: self.page(request, self.issues),
            ("POST", "/issues"): self.open_issue,
            ("GET", "/issues/{number:int}"): lambda request: self.one(request, self.issues),
            ("GET", "/issues/{number:int}/comments"): lambda request: self.page(request, self.comments, reverse=False),
            ("POST", "/issues/{number:int}/comments"): self.comment,
            ("GET", "/pulls"): lambda request: self.page(request, self.pulls),
            ("POST", "/pulls"): self.open_pull,
            ("GET", "/pulls/{number:int}"): lambda request: self.one(request, self.pulls),
            ("GET", "/pulls/{number:int}/files"): self.files,
            ("GET", "/pulls/{number:int}/reviews"): self.reviews,
            ("PUT", "/pulls/{number:int}/merge"): self.merge,
            ("GET", "/branches"): self.branches,
            ("POST", "/git/refs"): self.make_ref,
            ("GET", "/git/ref/heads/{name:path}"): self.get_ref,
            ("POST", "/releases"): self.release,
            ("GET", "/releases/tags/{tag}"): self.released,
            ("POST", "/actions/workflows/{workflow}/dispatches"): self.dispatch,
            ("GET", "/contents/{path:path}"): self.content,
        }
        return Starlette(
            routes=[
                Route("/api/v3/repos/acme/shop" + path, self.guarded(answer), methods=[method])
                for (method, path), answer in routes.items()
            ]
        )

    def guarded(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            self.requests.append(request)
            request.state.json = json.loads(await request.body() or b"{}")
            if request.headers.get("authorization") != f"Bearer {self.token}":
                return JSONResponse({"message": "Bad credentials", "documentation_url": "https://docs"}, 401)
            if (early := self.before(request)) is not None:
                return early
            response: Response = answer(request)
            return self.after(request) or response

        return endpoint

    def repo(self, request: Request) -> Response:
        return JSONResponse({"full_name": "acme/shop", "default_branch": "main", "private": True, "node_id": "x"})

    def page(self, request: Request, items: list[dict[str, Any]], *, reverse: bool = True) -> Response:
        size, number = int(request.query_params.get("per_page", 30)), int(request.query_params.get("page", 1))
        state = request.query_params.get("state", "all")
        found = [one for one in items if state in ("all", one.get("state", "all"))]
        since = request.query_params.get("since", "")
        found = [one for one in found if one["created_at"] >= since]
        found = found[::-1] if reverse else found
        part = found[(number - 1) * size : number * size]
        headers = {}
        if number * size < len(found):
            url = request.url.include_query_params(page=number + 1)
            headers["link"] = f'<{url}>; rel="next", <{url}>; rel="last"'
        return JSONResponse(part, headers=headers)

    def one(self, request: Request, items: list[dict[str, Any]]) -> Response:
        number = request.path_params["number"]
        found = next((one for one in items if one["number"] == number), None)
        return JSONResponse(found) if found is not None else not_found()

    def open_issue(self, request: Request) -> Response:
        given = request.state.json
        if given["title"] == "bad":
            errors = [{"resource": "Issue", "field": "title", "code": "invalid"}]
            return JSONResponse({"message": "Validation Failed", "errors": errors}, 422)
        issue = {
            "number": len(self.issues) + 1,
            "state": "open",
            "created_at": now(),
            "user": {"login": "bot"},
            **given,
        }
        self.issues.append(issue | {"labels": [{"name": one} for one in given.get("labels", [])]})
        return JSONResponse(self.issues[-1], 201)

    def comment(self, request: Request) -> Response:
        self.comments.append({"id": len(self.comments) + 1, "created_at": now(), **request.state.json})
        return JSONResponse(self.comments[-1], 201)

    def open_pull(self, request: Request) -> Response:
        given = dict(request.state.json)
        head = {"ref": given.pop("head"), "sha": SHA}
        pull = {"number": 10 + len(self.pulls), "state": "open", "merged": False, "merge_commit_sha": None}
        self.pulls.append({**pull, **given, "head": head, "created_at": now()})
        return JSONResponse(self.pulls[-1], 201)

    def files(self, request: Request) -> Response:
        return JSONResponse([{"filename": "a.py", "status": "modified", "patch": "@@", "blob_url": "x"}])

    def reviews(self, request: Request) -> Response:
        return JSONResponse([{"id": 1, "state": "APPROVED", "user": {"login": "ann", "id": 5}}])

    def merge(self, request: Request) -> Response:
        pull = next(one for one in self.pulls if one["number"] == request.path_params["number"])
        if pull["merged"]:
            return JSONResponse({"message": "Pull Request is not mergeable"}, 405)
        if request.state.json["sha"] != pull["head"]["sha"]:
            return JSONResponse({"message": "Head branch was modified. Review and try the merge again."}, 409)
        pull |= {"merged": True, "state": "closed", "merge_commit_sha": "b" * 40}
        return JSONResponse({"sha": "b" * 40, "merged": True, "message": "Pull Request successfully merged"})

    def branches(self, request: Request) -> Response:
        return JSONResponse([{"name": name, "commit": {"sha": sha, "url": "x"}} for name, sha in self.refs.items()])

    def make_ref(self, request: Request) -> Response:
        name = request.state.json["ref"].removeprefix("refs/heads/")
        if name in self.refs:
            return JSONResponse({"message": "Reference already exists"}, 422)
        self.refs[name] = request.state.json["sha"]
        return JSONResponse({"ref": f"refs/heads/{name}", "object": {"sha": self.refs[name]}}, 201)

    def get_ref(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.refs:
            return not_found()
        return JSONResponse({"ref": f"refs/heads/{name}", "object": {"sha": self.refs[name]}})

    def release(self, request: Request) -> Response:
        if any(one["tag_name"] == request.state.json["tag_name"] for one in self.releases):
            errors = [{"resource": "Release", "code": "already_exists", "field": "tag_name"}]
            return JSONResponse({"message": "Validation Failed", "errors": errors}, 422)
        self.releases.append({"id": 1, "created_at": now(), **request.state.json})
        return JSONResponse(self.releases[-1], 201)

    def released(self, request: Request) -> Response:
        tag = request.path_params["tag"]
        found = next((one for one in self.releases if one["tag_name"] == tag), None)
        return JSONResponse(found) if found is not None else not_found()

    def dispatch(self, request: Request) -> Response:
        self.runs.append(request.state.json)
        return Response(status_code=204)

    def content(self, request: Request) -> Response:
        return JSONResponse({"path": request.path_params["path"], "encoding": "base64", "content": "aGk=", "sha": SHA})


def now() -> str:
    """As GitHub writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def not_found() -> Response:
    """As GitHub says it."""
    return JSONResponse({"message": "Not Found", "documentation_url": "https://docs", "status": "404"}, 404)


def rate_limited(seconds: int, status: int = 403) -> Response:
    """The primary limit's answer."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(time.time()) + seconds)}
    return JSONResponse({"message": "API rate limit exceeded"}, status, headers=headers)
