"""The messages API over HTTP: one request, sent again only where nothing was done, its answer whole or as events."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from nanoclaw_broker.providers import authorities
from nanoclaw_broker.providers.base import NoReply
from nanoclaw_broker.providers.llm import failures
from nanoclaw_broker.providers.llm.failures import Refusal
from nanoclaw_broker.providers.llm.settings import SECRET, LlmSettings

MOST_TRIES = 3
MOST_ANSWER = 32 * 1024 * 1024
MOST_EVENT = 8 * 1024 * 1024
_ROOM_SECONDS = 5.0
"""What must be left for an answer after a pause."""
_PAUSE = wait_random_exponential(multiplier=0.25, max=4.0)
_CONNECT_SECONDS, _WRITE_SECONDS = 10.0, 30.0
USER_AGENT = "nanoclaw-broker"


@dataclass(frozen=True, slots=True)
class Request:
    """path: below the base URL, with its query. seconds: how long all of it may take. betas: of the agent's request."""

    path: str
    body: bytes
    seconds: float
    betas: str = ""


class Api:
    """One client for all requests. secret: the value of a secret by name, asked for each request."""

    def __init__(
        self,
        settings: LlmSettings,
        secret: Callable[[str], SecretStr],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._secret = secret
        self._monotonic = monotonic
        self._made: httpx.AsyncClient | None = None

    @property
    def _client(self) -> httpx.AsyncClient:
        # Made at the first use: its TLS context alone takes megabytes.
        if self._made is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
            tls = authorities.public()
            self._made = httpx.AsyncClient(verify=tls, limits=limits, trust_env=False, follow_redirects=False)
        return self._made

    async def close(self) -> None:
        """Lets go of its connections."""
        if self._made is not None:
            await self._made.aclose()

    async def whole(self, request: Request) -> dict[str, Any]:
        """The answer as one JSON object. Raises ActionFailed, NoReply."""
        async with self._answered(request) as response:
            try:
                value = json.loads(await _read(response, MOST_ANSWER))
            except (ValueError, RecursionError):
                raise NoReply("the model's API answered what is not JSON") from None
            if not isinstance(value, dict):
                raise NoReply("the model's API answered what is not an object")
            return value

    @asynccontextmanager
    async def events(self, request: Request) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a streamed answer, the last one `message_stop`. Raises ActionFailed, NoReply."""
        async with self._answered(request) as response:
            yield _events(response)

    @asynccontextmanager
    async def _answered(self, request: Request) -> AsyncIterator[httpx.Response]:
        """An answer of status 200. What goes wrong while it is read is NoReply too."""
        deadline = self._monotonic() + request.seconds
        again = AsyncRetrying(
            retry=retry_if_exception(lambda error: self._may_send_again(error, deadline)),
            stop=stop_after_attempt(MOST_TRIES),
            wait=_pause,
            reraise=True,
        )
        response: httpx.Response = await again(self._send, request)
        try:
            yield response
        except httpx.RequestError as error:
            raise NoReply(f"the answer broke off: {type(error).__name__}") from None
        finally:
            await response.aclose()

    def _may_send_again(self, error: BaseException, deadline: float) -> bool:
        if not isinstance(error, Refusal) or not error.again:
            return False
        return self._monotonic() + (error.after or 0.0) + _ROOM_SECONDS < deadline

    async def _send(self, request: Request) -> httpx.Response:
        timeout = httpx.Timeout(request.seconds, connect=_CONNECT_SECONDS, write=_WRITE_SECONDS)
        made = self._client.build_request(
            "POST", self.settings.base_url + request.path, content=request.body, headers=self._headers(request)
        )
        made.extensions["timeout"] = timeout.as_dict()
        try:
            response = await self._client.send(made, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise failures.unreachable(made.url.host, type(error).__name__) from None
        except httpx.TransportError as error:
            raise NoReply(f"no reply: {type(error).__name__}") from None
        if response.status_code == httpx.codes.OK:
            return response
        if response.is_success:  # it may have done what it was asked
            await response.aclose()
            raise NoReply(f"the model's API answered {response.status_code}")
        try:
            body = await _read(response, failures.MOST_ERROR_BYTES)
        except (httpx.RequestError, NoReply):
            body = b""  # its status says enough
        finally:
            await response.aclose()
        raise failures.of_response(response.status_code, body, response.headers)

    def _headers(self, request: Request) -> dict[str, str]:
        key = self._secret(SECRET).get_secret_value()
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": USER_AGENT,
            "anthropic-version": self.settings.version,
        }
        headers |= {"authorization": f"Bearer {key}"} if self.settings.auth == "bearer" else {"x-api-key": key}
        if betas := self.settings.passed_betas(request.betas):
            headers["anthropic-beta"] = betas
        return headers


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    after = error.after if isinstance(error, Refusal) else None
    return after if after is not None else _PAUSE(state)


async def _read(response: httpx.Response, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most:
            raise NoReply(f"the model's API answered more than {most} bytes")
    return bytes(body)


class _Counted(httpx.AsyncByteStream):
    """A body that may go on for as long as events come of it."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self.since_event = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self.since_event += len(chunk)
            if self.since_event > MOST_EVENT:
                raise NoReply(f"the model's API sent an event of more than {MOST_EVENT} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = counted = _Counted(response.stream)
    try:
        async for sent in EventSource(response).aiter_sse():
            counted.since_event = 0
            event = json.loads(sent.data) if sent.data else {}
            if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                raise NoReply("the model's API sent what is no event of the messages API")
            if event["type"] == "error":
                raise failures.of_event(event)
            yield event
            if event["type"] == "message_stop":
                return
    except (ValueError, RecursionError, SSEError):
        raise NoReply("the model's API sent an event that can't be read") from None
    raise NoReply("the answer broke off before its end")
