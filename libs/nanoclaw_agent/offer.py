"""What `ext_capabilities.json` offers: the actions that a call now would not be refused for lack of a grant; pure.

The snapshot is taken as it comes: what is not of the form that it should have offers nothing, and harms nothing else.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LONGEST_NAME = 48
"""Models take names of 64 characters, and clients put something like `mcp__nanoclaw__` before ours."""

AVAILABLE = "available"
_PLAIN = re.compile("ext_([A-Za-z0-9]+)_([A-Za-z0-9_]+)")
_NOT_IN_NAMES = re.compile("[^A-Za-z0-9_]+")

Target = tuple[str, str]
"""A provider and its action."""


class Offer(NamedTuple):
    """One action that may be called.

    level: what it needs whatever the parameters; least_level: what it needs with the easiest ones. kind: pure, read,
    mutating, or empty. schema: of its parameters, not looked at yet. products: of the grants that offer it; empty
    stands for the company. gates: those that grants want approved on the task. needs_task: whether none goes without.
    """

    provider: str
    action: str
    description: str
    level: int
    least_level: int
    kind: str
    schema: Any
    products: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    needs_task: bool = False


class Offers(NamedTuple):
    """What there is at a moment: by the name of the tool that calls it.

    until: when the first grant among them ends, TEXT; empty where none does. known: every action that the snapshot
    names, offered or not.
    """

    by_name: Mapping[str, Offer] = {}
    until: str = ""
    known: Mapping[str, Target] = {}


def tool_name(provider: str, action: str) -> str:
    """The name of the tool that calls an action, always the same, `[A-Za-z0-9_-]{1,48}`, and no other action's.

    `ext_{provider}_{action}` where that can be read back; else shortened or cleaned, with a digest behind a dash, which
    names of the first kind never have.
    """
    name = f"ext_{provider}_{action}"
    if len(name) <= LONGEST_NAME and read_name(name) == (provider, action):
        return name
    digest = hashlib.sha256(json.dumps([provider, action]).encode()).hexdigest()[:12]
    return f"{_NOT_IN_NAMES.sub('_', name)[: LONGEST_NAME - 13]}-{digest}"


def read_name(name: str) -> Target | None:
    """The action that a name of the first kind calls; None for any other."""
    match = _PLAIN.fullmatch(name)
    return (match[1], match[2]) if match else None


def offers(snapshot: Mapping[str, Any], now: str) -> Offers:
    """What a snapshot offers at the moment `now`, TEXT."""
    held = snapshot.get("providers_available")
    available = {name for name in held if isinstance(name, str)} if isinstance(held, list) else set()
    by_name: dict[str, Offer] = {}
    known: dict[str, Target] = {}
    until = ""
    for grant, provider in _grants(snapshot):
        ends, product, gate = (grant.get(name) or "" for name in ("expires_at", "product_id", "requires_task_gate"))
        whole = all(isinstance(text, str) for text in (ends, product, gate))
        live = whole and provider in available and (not ends or ends > now)
        if live and ends and (not until or ends < until):
            until = ends
        for name, action in _actions(grant):
            tool = tool_name(provider, name)
            known[tool] = (provider, name)
            if live and (offer := _offer(provider, name, action, product, gate)) is not None:
                by_name[tool] = _merge(by_name[tool], offer) if tool in by_name else offer
    return Offers(by_name, until, known)


def _grants(snapshot: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    found = snapshot.get("capabilities")
    for grant in found if isinstance(found, list) else []:
        if isinstance(grant, dict) and isinstance(provider := grant.get("provider"), str) and provider:
            yield grant, provider


def _actions(grant: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = grant.get("actions")
    for name, action in found.items() if isinstance(found, dict) else ():
        if name and isinstance(action, dict):
            yield name, action


def _offer(provider: str, name: str, action: Mapping[str, Any], product: str, gate: str) -> Offer | None:
    level = action.get("level")
    least = action.get("least_level", level)
    if action.get("status") != AVAILABLE or level not in (1, 2, 3) or least not in (1, 2, 3):
        return None
    description, kind = action.get("description"), action.get("kind")
    return Offer(
        provider,
        name,
        description if isinstance(description, str) else "",
        int(level),
        int(least),
        kind if isinstance(kind, str) else "",
        action.get("params_schema"),
        (product,),
        (gate,),
        least == 3 or bool(product or gate),
    )


def _merge(one: Offer, other: Offer) -> Offer:
    """The same action under two grants: by whichever the call goes."""
    return one._replace(
        level=max(one.level, other.level),
        least_level=min(one.least_level, other.least_level),
        products=tuple(sorted({*one.products, *other.products})),
        gates=tuple(sorted({*one.gates, *other.gates})),
        needs_task=one.needs_task and other.needs_task,
    )
