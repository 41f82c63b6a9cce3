"""The reading half of the provider `http`: GET and HEAD from hosts on an allow-list, and from nowhere inside."""

import base64
import json
import ssl
from typing import Annotated, Any, ClassVar

import httpcore
import httpx
from pydantic import Field, StringConstraints

from nanoclaw_broker.excerpt import CUT, excerpt
from nanoclaw_broker.providers import (
    Action,
    ActionFailed,
    Effect,
    Kind,
    Level,
    Params,
    Refused,
    Result,
)
from nanoclaw_broker.providers.addresses import DEFAULT_PORTS, AllowList
from nanoclaw_broker.providers.guarded import GuardedBackend, GuardedTransport, NotAllowed, Resolve

MOST_BODY = 32_000
MOST_ANSWER = 48_000
MOST_HOPS = 5
ALLOW = "ask an operator to allow the address in NANOCLAW_BROKER_HTTP_ALLOW, or use another host"
LATER = "see that host and port are right, or send it again later"
USER_AGENT = "nanoclaw-broker"
_DIRECTLY = "ask for the URL that it leads to"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SENDABLE = frozenset({"accept", "accept-language", "if-none-match", "if-modified-since"})
_SHOWN = (
    "content-type", "content-length", "etag", "last-modified", "cache-control", "date", "retry-after", "link",
    "location",
)  # fmt: skip

HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{0,500}$")]


class FetchParams(Params):
    """What `get` and `head` take."""

    url: str = Field(min_length=8, max_length=2000, description="http or https, without user and password")
    headers: dict[str, HeaderValue] = Field(
        default_factory=dict, max_length=8, description="accept, accept-language, if-none-match, if-modified-since"
    )


def read_url(text: str) -> httpx.URL:
    """Raises Refused INVALID_URL."""
    try:
        url = httpx.URL(text)
        port, _ = url.port, url.host  # which decodes what begins with xn--
    except (httpx.InvalidURL, ValueError):
        raise Refused("INVALID_URL", "url: not a URL", "send an absolute http or https URL") from None
    if url.scheme not in DEFAULT_PORTS or not url.raw_host or url.userinfo or port == 0:
        raise Refused("INVALID_URL", "url: must be http or https, with a host and no user", "mend the url")
    return url


def port_of(url: httpx.URL) -> int:
    """The port that it means."""
    return url.port or DEFAULT_PORTS[url.scheme]


class Fetch(Action[FetchParams]):
    """What GET and HEAD have in common."""

    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    method: ClassVar[str]
    params = FetchParams
    timeout_seconds: ClassVar[float] = 15.0

    def __init__(self, allow: AllowList, tls: ssl.SSLContext, resolve: Resolve) -> None:
        self._allow = allow
        self._tls = tls
        self._resolve = resolve

    def summary(self, params: FetchParams) -> str:
        """Without path and query: they may carry anything."""
        url = read_url(params.url)
        return f"{self.method} {url.scheme}://{url.host}:{port_of(url)}"

    def circuit(self, params: FetchParams) -> str:
        """Each host by itself."""
        url = read_url(params.url)
        return f"{url.host}:{port_of(url)}"

    def check(self, params: FetchParams) -> None:
        """The host is on the list, the headers are harmless."""
        url = read_url(params.url)
        if self._allow.find(url.raw_host.decode("ascii"), port_of(url)) is None:
            step = "ask an operator to add it to NANOCLAW_BROKER_HTTP_ALLOW, or fetch from a host that is on the list"
            raise Refused("HOST_NOT_ALLOWED", f"url: {url.host}:{port_of(url)} is not on the allow-list", step)
        strange = sorted(name for name in params.headers if name.lower() not in _SENDABLE)
        if strange:
            raise Refused("HEADER_NOT_ALLOWED", "headers: only " + ", ".join(sorted(_SENDABLE)), "leave others out")

    async def execute(self, params: FetchParams, effect: Effect) -> Result:
        """Follows redirects itself, each checked as the first URL was."""
        url, seen = read_url(params.url), 0
        headers = {**params.headers, "user-agent": USER_AGENT, "accept-encoding": "identity"}
        transport = GuardedTransport(GuardedBackend(self._allow, self._resolve), self._tls)
        async with httpx.AsyncClient(transport=transport, timeout=self.timeout_seconds, trust_env=False) as client:
            while True:
                request = httpx.Request(self.method, url, headers=headers, extensions=TIMEOUTS)
                try:
                    response = await client.send(request, stream=True)
                    try:
                        if response.status_code not in _REDIRECTS or "location" not in response.headers:
                            return await answered(response, url, body=self.method != "HEAD")
                    finally:
                        await response.aclose()
                except NotAllowed as error:
                    raise ActionFailed("ADDRESS_NOT_ALLOWED", str(error), next_steps=(ALLOW,)) from None
                except (httpcore.TimeoutException, httpx.TimeoutException):
                    raise TimeoutError from None
                except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, httpx.TransportError) as error:
                    message = f"{url.host} could not be reached: {type(error).__name__}"
                    raise ActionFailed("CONNECTION_FAILED", message, next_steps=(LATER,), in_trouble=True) from None
                seen += 1
                url = self._next(url, response.headers["location"], seen)

    def _next(self, url: httpx.URL, location: str, seen: int) -> httpx.URL:
        if seen > MOST_HOPS:
            raise ActionFailed("TOO_MANY_REDIRECTS", f"more than {MOST_HOPS} redirects", next_steps=(_DIRECTLY,))
        try:
            target = read_url(str(url.join(location)))
        except (Refused, httpx.InvalidURL, ValueError):
            raise ActionFailed(
                "REDIRECT_NOT_ALLOWED", f"{url.host} redirects to no URL", next_steps=(_DIRECTLY,)
            ) from None
        if url.scheme == "https" and target.scheme == "http":
            raise ActionFailed(
                "REDIRECT_NOT_ALLOWED", f"{url.host} redirects from https to http", next_steps=(_DIRECTLY,)
            )
        if self._allow.find(target.raw_host.decode("ascii"), port_of(target)) is None:
            message = f"{url.host} redirects to {target.host}:{port_of(target)}, which is not on the allow-list"
            raise ActionFailed("REDIRECT_NOT_ALLOWED", message, next_steps=(_DIRECTLY, ALLOW))
        return target


async def answered(response: httpx.Response, url: httpx.URL, *, body: bool) -> Result:
    """An answer as an agent gets it: status, a few headers, and the body cut to what fits."""
    if body and is_compressed(response):
        raise ActionFailed(
            "ENCODING_NOT_ALLOWED",
            "the answer is compressed, though that was not asked for",
            next_steps=("have its owner answer identity, or ask another URL",),
        )
    read, whole = b"", True
    async for chunk in response.aiter_raw(8192):
        read += chunk
        if len(read) > MOST_BODY:
            read, whole = read[:MOST_BODY], False
            break
    data: dict[str, Any] = {
        "status": response.status_code,
        "url": str(url),
        "headers": {name: excerpt(response.headers[name], 500) for name in _SHOWN if name in response.headers},
        "truncated": not whole,
    }
    if body:
        data |= _fitting(read, response.headers.get("content-type", ""), data)
        if data["truncated"] and "body" in data:
            data["body"] += CUT
    return Result(data, f"{response.status_code}, {len(read)} bytes{'' if whole else ' and more'}")


TIMEOUTS = {"timeout": httpx.Timeout(10.0).as_dict()}


def _fitting(body: bytes, content_type: str, data: dict[str, Any]) -> dict[str, Any]:
    """The body as text or base64, cut until the whole answer fits."""
    while True:
        shown = _shown(body, content_type)
        if len(json.dumps({**data, **shown}, ensure_ascii=False).encode(errors="replace")) <= MOST_ANSWER:
            return shown
        body = body[: len(body) * 3 // 4]
        data["truncated"] = True


def _shown(body: bytes, content_type: str) -> dict[str, Any]:
    kind = content_type.partition(";")[0].strip().lower()
    texts = kind.startswith("text/") or kind.endswith(("json", "xml", "javascript", "x-www-form-urlencoded"))
    if texts or not kind:
        return {"body": body.decode("utf-8", errors="replace")}
    return {"body_base64": base64.b64encode(body).decode()}


def is_compressed(response: httpx.Response) -> bool:
    """Though that was not asked for."""
    return str(response.headers.get("content-encoding", "identity")).lower() != "identity"


class Get(Fetch):
    """GET."""

    name: ClassVar[str] = "get"
    method: ClassVar[str] = "GET"
    description: ClassVar[str] = "fetch a URL of a host on the allow-list; answers status, headers and body"


class Head(Fetch):
    """HEAD."""

    name: ClassVar[str] = "head"
    method: ClassVar[str] = "HEAD"
    description: ClassVar[str] = "ask for a URL's headers only"
