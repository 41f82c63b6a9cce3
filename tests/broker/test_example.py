"""The provider of docs/examples: built, installed, found by its entry point, and called through a broker."""

import asyncio
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.registry import GROUP

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nanoclaw-wiki"
TOKEN = "a-token-of-the-wiki"
EDIT = {"page": "home", "text": "Welcome."}


class Wiki:
    """A wiki that knows its edits. loses: it works, and its answers do not arrive."""

    def __init__(self) -> None:
        self.pages = {"home": "Hello."}
        self.edits: list[str] = []
        self.loses = False

    async def read(self, request: Request) -> Response:
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return Response(status_code=401)
        text = self.pages.get(request.path_params["page"])
        return JSONResponse({"text": text}) if text is not None else Response(status_code=404)

    async def edit(self, request: Request) -> Response:
        body = await request.json()
        if body["page"] == "locked":
            return Response("nobody may edit it", 403)
        self.pages[body["page"]] = body["text"]
        self.edits.append(body["id"])
        return Response(status_code=502 if self.loses else 201)

    async def find(self, request: Request) -> Response:
        return Response(status_code=200 if request.path_params["id"] in self.edits else 404)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/pages/{page}", self.read),
                Route("/edits", self.edit, methods=["POST"]),
                Route("/edits/{id}", self.find),
            ]
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as pip leaves it; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    options = ["--disable-pip-version-check", "--target", str(folder / "target"), str(folder / "source")]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "target"


async def test_the_example_is_installed_and_called_through_a_broker(
    installed: Path, home: Path, start: Any, governance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read at L1, a no as an answer, a write at L2, and one whose reply is lost: found by verify, not repeated."""
    monkeypatch.syspath_prepend(str(installed))
    (package,) = importlib.metadata.distributions(path=[str(installed)])
    points = tuple(package.entry_points.select(group=GROUP))
    assert [(point.name, point.value) for point in points] == [("wiki", "nanoclaw_wiki:provider")]
    wiki = Wiki()
    governance.put("t1")
    async with serving(wiki.app()) as port:
        (home / "config").mkdir()
        (home / "config" / "providers.toml").write_text(f'[wiki]\nurl = "http://127.0.0.1:{port}"\n')
        (home / "secrets" / "broker").mkdir(exist_ok=True)
        secret = home / "secrets" / "broker" / "wiki_token"
        secret.touch(mode=0o600)
        secret.write_text(TOKEN)
        async with start(also=points, reconcile_seconds=0.02, quiet_seconds=0.05) as broker:
            assert (await broker.call("wiki", "read", {"page": "home"})).status == pb.CALL_STATUS_DENIED
            await broker.grant("wiki", pb.ACCESS_LEVEL_L2)
            assert (await broker.call("wiki", "read", {"page": "home"})).data_json == '{"text":"Hello."}'
            assert (await broker.call("wiki", "read", {"page": "none"})).code == "PAGE_NOT_FOUND"
            assert (await broker.call("wiki", "read", {"page": "../etc"})).code == "INVALID_PARAMS"
            refused = await broker.call("wiki", "edit", {**EDIT, "page": "locked"}, task_id="t1")
            assert (refused.code, "nobody may edit it" in refused.message) == ("EDIT_REFUSED", True)
            done = await broker.call("wiki", "edit", EDIT, task_id="t1")
            assert (done.code, wiki.pages["home"], wiki.edits) == ("OK", "Welcome.", [done.call_id])
            wiki.loses = True
            lost = await broker.call("wiki", "edit", EDIT, task_id="t1")
            assert lost.code == "EFFECT_UNKNOWN"
            async with asyncio.timeout(10):
                while (record := await broker.record(lost.call_id)).state == pb.CALL_STATE_UNKNOWN:
                    await asyncio.sleep(0.005)
            assert (record.state, record.code) == (pb.CALL_STATE_RECONCILED, "OK")
            assert wiki.edits == [done.call_id, lost.call_id]
