"""The writing half of the provider `http`: POST, PUT, PATCH and DELETE to hosts that the operator lists for it."""

import json
import ssl
from collections.abc import Mapping
from typing import Any, ClassVar

import httpcore
import httpx
from pydantic import Field, JsonValue, SecretStr

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.ledger import Kind, UnknownEnd
from nanoclaw_broker.policy import Level
from nanoclaw_broker.providers.addresses import AllowList, Entry
from nanoclaw_broker.providers.base import (
    Action,
    ActionFailed,
    Effect,
    Environment,
    FailureMode,
    Params,
    Refused,
    Result,
    Section,
)
from nanoclaw_broker.providers.guarded import GuardedBackend, GuardedTransport, NotAllowed, Resolve
from nanoclaw_broker.providers.http_read import (
    ALLOW,
    LATER,
    TIMEOUTS,
    USER_AGENT,
    HeaderValue,
    answered,
    is_compressed,
    port_of,
    read_url,
)
from nanoclaw_core.errors import NanoclawError

MOST_SENT = 256 * 1024
_SENDABLE = frozenset({"accept", "accept-language", "content-type", "if-match", "if-none-match", "if-unmodified-since"})
_SURELY_NOT_DONE = frozenset({501, 505})
"""Of 5xx: the server says that it could not even try. Behind any other the request may have been carried out."""


class WriteHost(Section):
    """`[http.write."host"]`. idempotency_key: it honours the header, so that a request is never carried out twice.

    bearer_secret: name of the broker's secret that is sent as `Authorization: Bearer`; the agent never sees it.
    """

    idempotency_key: bool = False
    bearer_secret: str = ""


class HttpSection(Section):
    """`[http]`. write: hosts that may be written to, by name as in NANOCLAW_BROKER_HTTP_ALLOW."""

    write: dict[str, WriteHost] = Field(default_factory=dict)


class SendParams(Params):
    """What writing takes: a text body, or a JSON value, or neither."""

    url: str = Field(min_length=8, max_length=2000, description="http or https, without user and password")
    headers: dict[str, HeaderValue] = Field(
        default_factory=dict, max_length=8, description=", ".join(sorted(_SENDABLE))
    )
    body: str | None = Field(default=None, max_length=MOST_SENT)
    json_body: JsonValue = Field(default=None, alias="json", description="sent as application/json")


class WriteHosts:
    """The list of hosts, with what is known of each. Raises INVALID_SETTING."""

    def __init__(self, environment: Environment) -> None:
        section = environment.section("http", HttpSection)
        self.allow = AllowList(",".join(section.write), "config/providers.toml: http.write")
        self._by_entry: Mapping[Entry, WriteHost] = dict(zip(self.allow.entries, section.write.values(), strict=True))
        self._secret = environment.secret
        self.any_honours_keys = any(host.idempotency_key for host in section.write.values())
        self.secrets = tuple(sorted({host.bearer_secret for host in section.write.values() if host.bearer_secret}))

    def find(self, url: httpx.URL) -> WriteHost | None:
        """The host's entry; None where it may not be written to."""
        entry = self.allow.find(url.raw_host.decode("ascii"), port_of(url))
        return self._by_entry[entry] if entry is not None else None

    def authorization(self, host: WriteHost) -> SecretStr | None:
        """The header's value, where the host has a secret. Raises Refused HOST_SECRET_MISSING."""
        if not host.bearer_secret:
            return None
        try:
            return SecretStr(f"Bearer {self._secret(host.bearer_secret).get_secret_value()}")
        except NanoclawError:
            message = f"url: the broker lacks the secret {host.bearer_secret}, which this host wants"
            step = "ask an operator to give it to the broker"
            raise Refused("HOST_SECRET_MISSING", message, step, passing=True) from None


class Send(Action[SendParams]):
    """What the four methods have in common."""

    level: ClassVar[Level] = Level.L3
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.NONE
    method: ClassVar[str]
    params = SendParams
    timeout_seconds: ClassVar[float] = 20.0
    failure_modes: ClassVar[tuple[FailureMode, ...]] = (
        FailureMode("HTTP_REFUSED", "PERMANENT", 0.03),
        FailureMode("CONNECTION_FAILED", "TRANSIENT", 0.01),
        FailureMode("NO_REPLY", "TRANSIENT", 0.01),
    )

    def __init__(self, hosts: WriteHosts, tls: ssl.SSLContext, resolve: Resolve) -> None:
        self._hosts = hosts
        self._tls = tls
        self._resolve = resolve

    def level_of(self, params: SendParams) -> Level:
        """L2 where the host sees to it that nothing happens twice, else L3."""
        return Level.L2 if self._honours_keys(params) else Level.L3

    @property
    def least_level(self) -> Level:
        """L2 where any host does."""
        return Level.L2 if self._hosts.any_honours_keys else Level.L3

    def unknown_end_of(self, params: SendParams) -> UnknownEnd:
        """The same request under the same key again, where the host honours it."""
        return UnknownEnd.PROVIDER_KEY if self._honours_keys(params) else UnknownEnd.NONE

    def _honours_keys(self, params: SendParams) -> bool:
        host = self._hosts.find(read_url(params.url))
        return host is not None and host.idempotency_key

    def circuit(self, params: SendParams) -> str:
        """Each host by itself."""
        url = read_url(params.url)
        return f"{url.host}:{port_of(url)}"

    def summary(self, params: SendParams) -> str:
        """Without path, query and body: they may carry anything."""
        url = read_url(params.url)
        return f"{self.method} {url.scheme}://{url.host}:{port_of(url)}"

    def render(self, params: SendParams) -> str:
        """The request as it would be sent, without what the broker adds."""
        headers = "".join(f"\n{name}: {value}" for name, value in sorted(params.headers.items()))
        body = params.body if params.json_body is None else json.dumps(params.json_body, indent=2, ensure_ascii=False)
        return f"{self.method} {params.url}{headers}" + (f"\n\n{body}" if body else "")

    def check(self, params: SendParams) -> None:
        """The host may be written to, with its secret; the headers are harmless, there is one body at the most."""
        url = read_url(params.url)
        host = self._hosts.find(url)
        if host is None:
            step = 'ask an operator to add it to config/providers.toml, [http.write."host"]'
            raise Refused("HOST_NOT_ALLOWED", f"url: {url.host}:{port_of(url)} may not be written to", step)
        strange = sorted(name for name in params.headers if name.lower() not in _SENDABLE)
        if strange:
            raise Refused("HEADER_NOT_ALLOWED", "headers: only " + ", ".join(sorted(_SENDABLE)), "leave others out")
        if params.body is not None and params.json_body is not None:
            raise Refused("TWO_BODIES", "body: is given besides json", "send one of them")
        self._hosts.authorization(host)

    async def execute(self, params: SendParams, effect: Effect) -> Result:
        """One request, no redirect. Any answer but a 5xx says what has happened."""
        url = read_url(params.url)
        host = self._hosts.find(url)
        assert host is not None
        try:
            request = self._request(params, url, host, effect)
        except Refused as refused:  # the secret went since the call was decided
            raise ActionFailed(refused.code, refused.message, next_steps=(refused.next_step,)) from None
        transport = GuardedTransport(GuardedBackend(self._hosts.allow, self._resolve), self._tls)
        async with httpx.AsyncClient(transport=transport, timeout=self.timeout_seconds, trust_env=False) as client:
            try:
                response = await client.send(request, stream=True)
            except NotAllowed as error:
                raise ActionFailed("ADDRESS_NOT_ALLOWED", str(error), next_steps=(ALLOW,)) from None
            except (httpcore.ConnectError, httpcore.ConnectTimeout, ssl.SSLCertVerificationError) as error:
                message = f"{url.host} could not be reached: {type(error).__name__}"
                raise ActionFailed("CONNECTION_FAILED", message, next_steps=(LATER,), in_trouble=True) from None
            try:
                if response.status_code >= 500 and response.status_code not in _SURELY_NOT_DONE:
                    raise ConnectionError(f"status {response.status_code}")
                # A body that can't be shown does not make undone what was done.
                result = await answered(response, url, body=not is_compressed(response))
            finally:
                await response.aclose()
        if response.status_code >= 400:
            raise ActionFailed(
                "HTTP_REFUSED",
                f"{url.host} answers {response.status_code}",
                next_steps=("read the body, and mend the request",),
                status=response.status_code,
                body=excerpt(str(result.data.get("body", "")), 1500),
            )
        return result

    def _request(self, params: SendParams, url: httpx.URL, host: WriteHost, effect: Effect) -> httpx.Request:
        headers = {**params.headers, "user-agent": USER_AGENT, "accept-encoding": "identity"}
        headers["idempotency-key"] = effect.key
        authorization = self._hosts.authorization(host)
        if authorization is not None:
            headers["authorization"] = authorization.get_secret_value()
        content: dict[str, Any] = {"content": params.body} if params.body is not None else {}
        if params.json_body is not None:
            content = {"json": params.json_body}
        return httpx.Request(self.method, url, headers=headers, extensions=TIMEOUTS, **content)


class Post(Send):
    """POST."""

    name: ClassVar[str] = "post"
    method: ClassVar[str] = "POST"
    description: ClassVar[str] = "create or act: POST to a host that the operator lists for writing"


class Put(Send):
    """PUT."""

    name: ClassVar[str] = "put"
    method: ClassVar[str] = "PUT"
    description: ClassVar[str] = "replace: PUT to a host that the operator lists for writing"


class Patch(Send):
    """PATCH."""

    name: ClassVar[str] = "patch"
    method: ClassVar[str] = "PATCH"
    description: ClassVar[str] = "change: PATCH at a host that the operator lists for writing"


class Delete(Send):
    """DELETE."""

    name: ClassVar[str] = "delete"
    method: ClassVar[str] = "DELETE"
    description: ClassVar[str] = "remove: DELETE at a host that the operator lists for writing"
