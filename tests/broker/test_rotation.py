"""Secrets changed under a broker that serves: each provider uses the new one at once, and none leaks the old."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from github_api import GitHub
from messages_api import PRICES, MessagesApi
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from nanoclaw.broker.v1 import broker_pb2 as pb
from nanoclaw_broker.providers import Environment, Refused
from nanoclaw_broker.providers.http import provider
from nanoclaw_broker.secrets import SCRUBBED, Secrets

OLD, NEW = "the-secret-of-before-1", "the-secret-of-after-22"
NAMES = {"llm": "llm_api_key", "github": "github_token", "http": "orders_token"}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "llm": ("messages", {"model": "claude-test", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}),
    "github": ("get_repo", {"repo": "acme/shop"}),
    "http": ("post", {"body": "x"}),
}


class FarSides:
    """A messages API, GitHub and an API of orders, which all want the same secret."""

    def __init__(self, api: MessagesApi) -> None:
        self.api, self.github = api, GitHub(OLD)
        self.want(OLD)

    def want(self, secret: str) -> None:
        """From now on."""
        self.secret = self.api.key = self.github.token = secret

    async def order(self, request: Request) -> JSONResponse:
        given = request.headers["authorization"].removeprefix("Bearer ")
        return JSONResponse({"given": given}, 200 if given == self.secret else 401)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/orders", self.order, methods=["POST"]), Mount("/", self.github.app())])


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi() as server:
        yield server


def put(home: Path, value: str) -> None:
    folder = home / "secrets" / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES.values():
        (folder / name).write_text(value)
        (folder / name).chmod(0o600)


async def test_a_secret_that_was_replaced_is_used_at_the_next_call(start: Any, home: Path, api: MessagesApi) -> None:
    """Also by a provider that keeps its connections; what the other side still says of the old one is kept out."""
    far = FarSides(api)
    put(home, OLD)
    async with serving(far.app()) as port:
        (home / "config").mkdir()
        prices = "\n".join(f'[llm.models."{name}"]\n' + "\n".join(f"{key} = {value}" for key, value in one.items())
                           for name, one in PRICES.items())  # fmt: skip
        (home / "config" / "providers.toml").write_text(
            f'[llm]\nbase_url = "{api.url}"\n{prices}\n'
            f'[github]\nbase_url = "http://127.0.0.1:{port}/api/v3"\nrepos = ["acme/shop"]\n'
            f'[http.write."127.0.0.1:{port}"]\nidempotency_key = true\nbearer_secret = "orders_token"\n'
        )
        CALLS["http"][1]["url"] = f"http://127.0.0.1:{port}/orders"
        async with start() as broker:
            for provider in CALLS:
                await broker.grant(provider, 3)

            async def codes() -> dict[str, str]:
                answers = {name: await broker.call(name, *call) for name, call in CALLS.items()}
                for answer in answers.values():
                    assert OLD not in str(answer)
                    assert NEW not in str(answer)
                return {name: answer.code for name, answer in answers.items()}

            assert set((await codes()).values()) == {"OK"}
            far.want(NEW)
            refused = {"llm": "LLM_KEY_REFUSED", "github": "GITHUB_TOKEN_REFUSED", "http": "HTTP_REFUSED"}
            assert await codes() == refused
            put(home, NEW)
            os.kill(os.getpid(), signal.SIGHUP)
            assert set((await codes()).values()) == {"OK"}
            far.want(OLD)
            assert await codes() == refused


def test_a_replaced_secret_is_scrubbed_on(tmp_path: Path) -> None:
    """The reply to a call that left with it may come after the reload."""
    put(tmp_path, OLD)
    secrets = Secrets(tmp_path / "secrets" / "broker")
    put(tmp_path, NEW)
    secrets.reload()
    assert secrets.scrub(f"{OLD} {NEW}") == f"{SCRUBBED} {SCRUBBED}"
    assert secrets.get("llm_api_key").get_secret_value() == NEW


def test_a_host_whose_secret_is_missing_is_not_written_to(tmp_path: Path) -> None:
    """It is refused before anything leaves, so nobody has to find out what became of it."""
    config = {"http": {"write": {"127.0.0.1:9": {"idempotency_key": True, "bearer_secret": "orders_token"}}}}
    secrets = Secrets(tmp_path / "secrets" / "broker")
    made = provider(Environment(tmp_path, secret=secrets.get, config=config))
    assert made.secrets_in_part == ("orders_token",)
    post = made.by_name["post"]
    params = post.params.model_validate({"url": "http://127.0.0.1:9/orders"})
    with pytest.raises(Refused) as refused:
        post.check(params)
    assert (refused.value.code, "orders_token" in refused.value.message) == ("HOST_SECRET_MISSING", True)
    put(tmp_path, NEW)
    secrets.reload()
    post.check(params)


async def test_watchers_are_told_when_a_provider_gets_its_secret(start: Any, home: Path) -> None:
    """So that agents see within a second that they may call it."""
    folder = home / "secrets" / "broker"
    async with start() as broker:

        async def available() -> bool:
            listed = await broker.founder.ListCapabilities(pb.ListCapabilitiesRequest())
            return "locked" in listed.providers_available

        watch = broker.gateway.WatchCapabilities(pb.WatchCapabilitiesRequest(), timeout=10)
        before = (await watch.read()).revision
        assert not await available()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "locked_token").write_text(NEW)
        (folder / "locked_token").chmod(0o600)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await watch.read()).revision > before
        assert await available()
        watch.cancel()
