"""Writing over HTTP: to listed hosts, with a secret that only the broker has, and no guess about what has happened."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from serving import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from nanoclaw_broker.ledger import UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers import ActionFailed, Effect, Environment, Refused, Result
from nanoclaw_broker.providers.http import provider
from nanoclaw_core.errors import NanoclawError

EFFECT = Effect("01CALL", "developer", "t1")
TOKEN = "a-token-that-only-the-broker-has"


class Orders:
    """An API that takes orders and honours Idempotency-Key."""

    def __init__(self) -> None:
        self.orders: dict[str, Any] = {}
        self.seen: list[Request] = []
        self.answer: Callable[[], Response] | None = None

    async def take(self, request: Request) -> Response:
        self.seen.append(request)
        if self.answer is not None:
            return self.answer()
        key = request.headers["idempotency-key"]
        self.orders.setdefault(key, (await request.body()).decode())
        return JSONResponse({"order": len(self.orders), "body": self.orders[key]}, 201)


@pytest.fixture
async def orders() -> AsyncIterator["Served"]:
    api = Orders()
    routes = [Route("/orders", api.take, methods=["POST", "PUT", "PATCH", "DELETE"])]
    async with serving(Starlette(routes=routes)) as port:
        yield Served(api, port)


class Served:
    def __init__(self, api: Orders, port: int) -> None:
        self.api = api
        self.url = f"http://127.0.0.1:{port}/orders"
        self.host = f"127.0.0.1:{port}"

    def acting(self, action: str = "post", **host: Any) -> Any:
        config = {"http": {"write": {self.host: host}}}
        environment = Environment(Path("/nowhere"), "", lambda name: SecretStr(TOKEN), config)
        return provider(environment).by_name[action]

    async def send(self, action: str = "post", host: dict[str, Any] | None = None, **params: Any) -> Result:
        acting = self.acting(action, **(host or {}))
        given = acting.params.model_validate({"url": self.url, **params})
        acting.check(given)
        result: Result = await acting.execute(given, EFFECT)
        return result


@pytest.mark.parametrize("action", ["post", "put", "patch", "delete"])
async def test_a_request_is_sent_once_with_its_key_and_the_brokers_secret(orders: Served, action: str) -> None:
    """The agent gives neither; the answer is data."""
    result = await orders.send(action, {"bearer_secret": "shop_token"}, json={"part": "bolt"})
    (request,) = orders.api.seen
    assert (request.method, request.headers["idempotency-key"]) == (action.upper(), "01CALL")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/json"
    assert (result.data["status"], result.summary) == (201, "201, 40 bytes")
    assert TOKEN not in str(result)


async def test_a_text_goes_as_it_is(orders: Served) -> None:
    """With the content type that the agent gives."""
    result = await orders.send(body="a,b\n1,2", headers={"content-type": "text/csv"})
    assert "a,b" in result.data["body"]
    assert "authorization" not in orders.api.seen[0].headers


def test_a_host_that_honours_keys_needs_less(orders: Served) -> None:
    """L2 and sent again under its key; any other L3, and a person says what became of it."""
    params = {"url": orders.url}
    for honours, level, ends_by in ((True, Level.L2, UnknownEnd.PROVIDER_KEY), (False, Level.L3, UnknownEnd.NONE)):
        acting = orders.acting(idempotency_key=honours)
        given = acting.params.model_validate(params)
        assert (acting.level_of(given), acting.unknown_end_of(given)) == (level, ends_by)
        assert (acting.level, acting.least_level) == (Level.L3, level)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"url": "http://other.example/orders"}, "HOST_NOT_ALLOWED"),
        ({"url": "ftp://other.example"}, "INVALID_URL"),
        ({"headers": {"Authorization": "Bearer mine"}}, "HEADER_NOT_ALLOWED"),
        ({"headers": {"idempotency-key": "mine"}}, "HEADER_NOT_ALLOWED"),
        ({"headers": {"host": "other"}}, "HEADER_NOT_ALLOWED"),
        ({"body": "x", "json": 1}, "TWO_BODIES"),
    ],
)
async def test_what_may_not_be_sent_is_refused_before_anything_leaves(
    orders: Served, params: dict[str, Any], code: str
) -> None:
    """By host, header and body."""
    with pytest.raises(Refused) as refused:
        await orders.send(**params)
    assert (refused.value.code, orders.api.seen) == (code, [])


async def test_a_no_is_an_answer_and_an_error_of_the_server_is_none(orders: Served) -> None:
    """4xx: it was not done. 5xx: it may have been, so it counts as no reply, but for what could not even be tried."""
    orders.api.answer = lambda: JSONResponse({"error": "no such part"}, 422)
    with pytest.raises(ActionFailed) as refused:
        await orders.send()
    assert (refused.value.code, refused.value.facts["status"], refused.value.in_trouble) == (
        "HTTP_REFUSED",
        "422",
        False,
    )
    assert "no such part" in refused.value.facts["body"]
    for status in (500, 502, 503, 504):
        orders.api.answer = lambda status=status: Response(status_code=status)  # type: ignore[misc]
        with pytest.raises(ConnectionError):
            await orders.send()
    orders.api.answer = lambda: Response(status_code=501)
    with pytest.raises(ActionFailed):
        await orders.send()


async def test_a_redirect_is_not_followed(orders: Served) -> None:
    """Least of all with a secret: the agent is told where it points."""
    orders.api.answer = lambda: RedirectResponse("http://169.254.169.254/")
    result = await orders.send(host={"bearer_secret": "shop_token"})
    assert (result.data["status"], result.data["headers"]["location"]) == (307, "http://169.254.169.254/")
    assert len(orders.api.seen) == 1


async def test_a_host_that_can_not_be_reached_is_in_trouble_and_got_nothing(orders: Served) -> None:
    """The connection was never made: that is an answer, and it counts for the breaker of that host alone."""
    acting = orders.acting()
    closed = Served(orders.api, 9)
    with pytest.raises(ActionFailed) as failed:
        await closed.send()
    assert (failed.value.code, failed.value.in_trouble) == ("CONNECTION_FAILED", True)
    assert acting.circuit(acting.params.model_validate({"url": orders.url})) == orders.host


async def test_the_same_call_sent_again_is_carried_out_once(orders: Served) -> None:
    """PROVIDER_KEY: the key is the call's, whatever the agent's request_id."""
    first, second = [await orders.send(host={"idempotency_key": True}, json=1) for _ in range(2)]
    assert first.data["body"] == second.data["body"]
    assert len(orders.api.orders) == 1


def test_an_approver_sees_the_request_and_the_ledger_only_where_it_goes(orders: Served) -> None:
    """Method, address, headers and body; the line in the ledger has no path, query or body."""
    acting = orders.acting()
    params = acting.params.model_validate({"url": orders.url + "?card=4711", "json": {"amount": 9}})
    assert acting.render(params).startswith(f"POST {orders.url}?card=4711")
    assert '"amount": 9' in acting.render(params)
    assert acting.summary(params) == f"POST http://{orders.host}"


def test_a_list_that_can_not_be_read_stops_the_start() -> None:
    """Naming the entry."""
    for config in ({"write": {"a/b": {}}}, {"write": {"host": {"secret": "x"}}}, {"hosts": {}}):
        with pytest.raises(NanoclawError, match=r"config/providers\.toml: http"):
            provider(Environment(Path("/nowhere"), config={"http": config}))
