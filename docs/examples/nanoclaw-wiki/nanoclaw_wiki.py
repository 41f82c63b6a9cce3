"""The provider `wiki`: agents read and edit the pages of a wiki that knows its edits by an id."""

from typing import ClassVar

import httpx
from pydantic import Field

from nanoclaw_broker.providers import (
    Action,
    ActionFailed,
    Effect,
    Environment,
    FailureMode,
    Kind,
    Level,
    NoReply,
    Params,
    Provider,
    Result,
    Section,
    UnknownEnd,
)

SECRET = "wiki_token"  # noqa: S105 - a file's name
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout)


class WikiSettings(Section):
    """The table `[wiki]` of config/providers.toml."""

    url: str = "https://wiki.example.com"


class Wiki:
    """The wiki's API. One client for each request: simple, and nothing to close."""

    def __init__(self, environment: Environment) -> None:
        self._settings = environment.section("wiki", WikiSettings)
        self._secret = environment.secret

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """An answer below 500. Raises ActionFailed where nothing was sent, NoReply where nobody can say."""
        token = self._secret(SECRET).get_secret_value()  # read for each request: a new one is in force at once
        async with httpx.AsyncClient(base_url=self._settings.url, timeout=10.0, trust_env=False) as client:
            try:
                response = await client.request(method, path, json=body, headers={"authorization": f"Bearer {token}"})
            except NEVER_SENT:
                raise ActionFailed("WIKI_UNREACHABLE", "the wiki can't be reached", in_trouble=True) from None
            except httpx.TransportError as error:
                raise NoReply(f"the wiki did not answer: {type(error).__name__}") from None
        if response.status_code >= 500:
            raise NoReply(f"the wiki answers {response.status_code}")
        return response


class PageParams(Params):
    """Which page."""

    page: str = Field(pattern=r"^[a-z0-9-]{1,80}$")


class EditParams(PageParams):
    """Which page, and what it shall say."""

    text: str = Field(max_length=20_000)


class Read(Action[PageParams]):
    """Looks, so it is of L1, and an end without a reply harms nobody."""

    name: ClassVar[str] = "read"
    level: ClassVar[Level] = Level.L1
    kind: ClassVar[Kind] = Kind.READ
    description: ClassVar[str] = "read a page"
    params = PageParams
    failure_modes: ClassVar[tuple[FailureMode, ...]] = (FailureMode("PAGE_NOT_FOUND", "VALIDATION", 0.05),)

    def __init__(self, wiki: Wiki) -> None:
        self._wiki = wiki

    def summary(self, params: PageParams) -> str:
        """For the ledger."""
        return params.page

    async def execute(self, params: PageParams, effect: Effect) -> Result:
        """The page's text."""
        response = await self._wiki.ask("GET", f"/pages/{params.page}")
        if response.status_code == 404:
            raise ActionFailed("PAGE_NOT_FOUND", f"there is no page {params.page}", next_steps=("name another",))
        return Result({"text": response.json()["text"]}, f"{len(response.text)} characters")


class Edit(Action[EditParams]):
    """Changes something, so it is of L2; `verify` says what became of an edit whose reply was lost."""

    name: ClassVar[str] = "edit"
    level: ClassVar[Level] = Level.L2
    kind: ClassVar[Kind] = Kind.MUTATING
    unknown_ends_by: ClassVar[UnknownEnd] = UnknownEnd.VERIFY
    description: ClassVar[str] = "write a page anew"
    params = EditParams
    failure_modes: ClassVar[tuple[FailureMode, ...]] = (
        FailureMode("EDIT_REFUSED", "VALIDATION", 0.02),
        FailureMode("WIKI_UNREACHABLE", "TRANSIENT", 0.01),
    )

    def __init__(self, wiki: Wiki) -> None:
        self._wiki = wiki

    def summary(self, params: EditParams) -> str:
        """For the ledger: the page, not the text."""
        return f"{params.page}, {len(params.text)} characters"

    async def execute(self, params: EditParams, effect: Effect) -> Result:
        """Sent once, marked with the call's key."""
        body = {"id": effect.key, "page": params.page, "text": params.text}
        response = await self._wiki.ask("POST", "/edits", body)
        if response.status_code >= 400:
            raise ActionFailed("EDIT_REFUSED", f"the wiki refuses: {response.text[:500]}")
        return Result({"edit": effect.key}, "written")

    async def verify(self, params: EditParams, effect: Effect) -> Result | None:
        """Whether the wiki knows the edit; whatever else it answers is asked again later."""
        response = await self._wiki.ask("GET", f"/edits/{effect.key}")
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise NoReply(f"the wiki answers {response.status_code}")
        return Result({"edit": effect.key}, "written, as the wiki says")


def provider(environment: Environment) -> Provider:
    """What the entry point names."""
    wiki = Wiki(environment)
    return Provider("wiki", "read and edit the wiki", (Read(wiki), Edit(wiki)), required_secrets=(SECRET,))
