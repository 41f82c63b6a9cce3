"""GitHub's REST API as the actions use it: one request, its answer or its no; only what changes nothing is repeated."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import Field, SecretStr
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers import authorities
from nanoclaw_broker.providers.base import ActionFailed, NoReply, Section

TOKEN = "github_token"  # noqa: S105  a secret's name
_NEXT = re.compile(r'[?&]page=(\d+)[^>]*>;\s*rel="next"')
MOST_ANSWER = 8 * 1024 * 1024
_MOST_MESSAGE = 500
_UNSURE = frozenset({500, 502, 503, 504})


class GithubSection(Section):
    """`[github]`. base_url: of the API, of GitHub Enterprise for instance. repos: `owner/name`, or `owner/*`."""

    base_url: str = Field(default="https://api.github.com", pattern=r"^https?://[^/?#]+(/[^?#]*)?$")
    repos: list[str] = Field(default_factory=list)


class Unanswered(NoReply, ConnectionError):
    """The server had trouble, or can't be understood: a request that changes something may have been carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it answered. data: parsed JSON, None for an empty body. next_page: 0 where there is none."""

    data: Any
    next_page: int = 0


class Api:
    """token: read for each request, so that a reload is in force at once."""

    def __init__(self, base_url: str, token: Callable[[], SecretStr], seconds: float = 15.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout = httpx.Timeout(seconds, connect=5.0)

    async def get(self, path: str, query: Mapping[str, Any] | None = None) -> Answer:
        """Reads; tried three times while the server has trouble. Raises ActionFailed."""
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type((Unanswered, httpx.TransportError)),
                stop=stop_after_attempt(3),
                wait=wait_exponential(multiplier=0.2, max=2.0),
                reraise=True,
            ):
                with attempt:
                    return await self._send("GET", path, query=query)
        except (Unanswered, httpx.TransportError) as error:
            raise _down(error) from None
        raise AssertionError

    async def find(self, path: str) -> Any | None:
        """Reads what may not be there: None for a 404."""
        try:
            return (await self.get(path)).data
        except ActionFailed as error:
            if error.code == "GITHUB_NOT_FOUND":
                return None
            raise

    async def send(self, method: str, path: str, body: Mapping[str, Any]) -> Answer:
        """Changes something; once. Raises ActionFailed where it surely was not done, else Unanswered and others."""
        try:
            return await self._send(method, path, body=body)
        except httpx.ConnectError as error:
            raise _down(error) from None

    async def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Answer:
        headers = {
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2022-11-28",
            "user-agent": "nanoclaw-broker",
            "authorization": f"Bearer {self._token().get_secret_value()}",
            "accept-encoding": "identity",  # few bytes could become very many
        }
        tls, timeout = authorities.public(), self._timeout
        async with httpx.AsyncClient(verify=tls, timeout=timeout, trust_env=False, follow_redirects=False) as client:
            request = client.build_request(method, self._base_url + path, params=query, json=body, headers=headers)
            response = await _whole(await client.send(request, stream=True))
        if response.status_code in _UNSURE:
            raise Unanswered(f"status {response.status_code}")
        if not response.is_success:
            raise _no(response)
        page = _NEXT.search(response.headers.get("link", ""))
        try:
            data = response.json() if response.content else None
        except (ValueError, RecursionError):
            raise Unanswered("an answer that is not JSON") from None
        return Answer(data, int(page[1]) if page else 0)


async def _whole(response: httpx.Response) -> httpx.Response:
    """With its body, in bounded memory; of a refusal the status says enough. Raises Unanswered."""
    body, problem = bytearray(), ""
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MOST_ANSWER:
                problem = f"an answer of more than {MOST_ANSWER} bytes"
                break
    finally:
        await response.aclose()
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        problem = "an answer that is compressed, though that was not asked for"
    if problem and response.is_success:
        raise Unanswered(problem)
    headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
    return httpx.Response(response.status_code, headers=headers, content=b"" if problem else bytes(body))


def _down(error: Exception) -> ActionFailed:
    message = f"GitHub could not be reached: {error if isinstance(error, Unanswered) else type(error).__name__}"
    return ActionFailed("GITHUB_UNREACHABLE", message, next_steps=("send it again later",), in_trouble=True)


def _no(response: httpx.Response) -> ActionFailed:
    """What a status other than 2xx means."""
    status, headers = response.status_code, response.headers
    if status == 429 or (status == 403 and ("retry-after" in headers or headers.get("x-ratelimit-remaining") == "0")):
        seconds = _seconds_to_wait(headers)
        step = f"send it again in {seconds} s"
        return ActionFailed("GITHUB_RATE_LIMITED", _said(response), next_steps=(step,), retry_after_seconds=seconds)
    code, step = {
        301: ("GITHUB_MOVED", "name the repository by its new name"),
        307: ("GITHUB_MOVED", "name the repository by its new name"),
        401: ("GITHUB_TOKEN_REFUSED", f"ask an operator to replace the broker's secret {TOKEN}"),
        403: ("GITHUB_FORBIDDEN", "ask an operator to give the broker's token this permission"),
        404: ("GITHUB_NOT_FOUND", "check the names; what the broker's token may not see is not found either"),
        405: ("GITHUB_REFUSED", "read the message"),
        409: ("GITHUB_CONFLICT", "read the present state, and decide anew"),
        410: ("GITHUB_GONE", "it was deleted or switched off"),
        422: ("GITHUB_REFUSED", "mend what the message names"),
    }.get(status, ("GITHUB_FAILED", "read the message"))
    return ActionFailed(code, _said(response), next_steps=(step,), status=status)


def _said(response: httpx.Response) -> str:
    """GitHub's own words, with the fields that its errors name."""
    try:
        body = response.json()
        details = "; ".join(
            str(one.get("message") or f"{one.get('resource')}.{one.get('field')}: {one.get('code')}")
            for one in body.get("errors", [])
            if isinstance(one, dict)
        )
        text = str(body.get("message", "")) + (f": {details}" if details else "")
    except (ValueError, AttributeError, TypeError, RecursionError):
        text = ""
    return excerpt(f"GitHub answers {response.status_code}: {text or 'without saying why'}", _MOST_MESSAGE)


def _seconds_to_wait(headers: httpx.Headers) -> int:
    """By Retry-After, else until the limit resets, else a minute."""
    if headers.get("retry-after", "").isdecimal():
        return int(headers["retry-after"])
    if headers.get("x-ratelimit-reset", "").isdecimal():
        return max(1, int(headers["x-ratelimit-reset"]) - int(time.time()))
    return 60
