"""Offers: what the snapshot lets a group call now, and a name for each that no other action has."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoclaw_agent.mcp_tools import Tools
from nanoclaw_agent.offer import LONGEST_NAME, Offers, offers, read_name, tool_name

VALID = re.compile("[A-Za-z0-9_-]{1,64}")
NOW = "2026-11-21T12:00:00.000000Z"
LATER = "2026-11-28T12:00:00.000000Z"

names = st.from_regex("[a-z][a-z0-9_]{0,63}", fullmatch=True)
anything = st.text("aB_-. é\0", min_size=1, max_size=90)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 4) | st.text("aé", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé", max_size=3), inner, max_size=3),
    max_leaves=10,
)

tries = settings(max_examples=60)


def action(**changes: Any) -> dict[str, Any]:
    said = {"level": 1, "least_level": 1, "kind": "read", "description": "looks", "status": "available"}
    return {**said, "params_schema": {"type": "object"}, **changes}


def grant(provider: str = "github", **changes: Any) -> dict[str, Any]:
    """A grant as the gateway writes it."""
    return {
        "provider": provider, "access_level": 1, "allowed_actions": None, "denied_actions": [],
        "requires_task_gate": None, "product_id": None, "expires_at": None, "actions": {"get_issue": action()},
        **changes,
    }  # fmt: skip


def found(*grants: Any, available: Any = ("github", "json")) -> Offers:
    held = list(available) if isinstance(available, tuple) else available
    return offers({"generatedAt": NOW, "capabilities": list(grants), "providers_available": held}, NOW)


@tries
@given(st.lists(st.tuples(names, names) | st.tuples(anything, anything), max_size=6, unique=True))
def test_every_action_has_a_valid_name_of_its_own(pairs: list[tuple[str, str]]) -> None:
    """Whatever providers and actions are called: no two share a name, and none takes a fixed tool's."""
    made = {tool_name(*pair) for pair in pairs}
    assert len(made) == len(pairs)
    assert all(VALID.fullmatch(name) and len(name) <= LONGEST_NAME for name in made)
    assert made.isdisjoint(vars(Tools))


@tries
@given(names, names)
def test_a_name_does_not_depend_on_what_else_there_is(provider: str, name: str) -> None:
    """It is made from the action alone, and can be read back where it has no digest: never as another action."""
    made = tool_name(provider, name)
    assert made == tool_name(provider, name)
    assert read_name(made) == (None if "-" in made else (provider, name))


@pytest.mark.parametrize(
    ("provider", "name", "expected"),
    [
        ("github", "create_issue", "ext_github_create_issue"),
        ("a", "b_c", "ext_a_b_c"),
        ("a_b", "c", "ext_a_b_c-1ab1d9a28be0"),
        ("github", "x" * 64, f"ext_github_{'x' * 24}-a447c0e204b9"),
    ],
)
def test_names_never_change(provider: str, name: str, expected: str) -> None:
    """They stand in prompts and in clients' permissions, so a release must not rename them."""
    assert tool_name(provider, name) == expected


def test_only_what_a_call_would_not_be_refused_for_lack_of_a_grant_is_offered() -> None:
    """Available, not ended, and of a provider that has its secrets; what else the snapshot names is known only."""
    actions = {
        "get_issue": action(),
        "drop": action(status="DENIED"),
        "merge": action(level=3, status="requires_higher_level"),
    }
    assert set(found(grant(actions=actions)).by_name) == {"ext_github_get_issue"}
    assert set(found(grant(actions=actions)).known) == {"ext_github_get_issue", "ext_github_drop", "ext_github_merge"}
    assert not found(grant(expires_at=NOW)).by_name
    assert not found(grant(), available=("json",)).by_name
    assert not found(grant(), available=None).by_name
    lasting = found(grant(expires_at=LATER), grant("json", expires_at="2026-11-21T12:00:01.000000Z"), grant())
    assert (len(lasting.by_name), lasting.until) == (2, "2026-11-21T12:00:01.000000Z")


def test_an_action_under_two_grants_is_one_offer() -> None:
    """By the company's grant it goes without a task; by a product's, or where a gate is wanted, it does not."""
    product = grant(product_id="p1", actions={"get_issue": action(level=2, least_level=2)})
    assert found(product).by_name["ext_github_get_issue"].needs_task
    (both,) = found(product, grant()).by_name.values()
    assert (both.products, both.needs_task, both.level, both.least_level) == (("", "p1"), False, 2, 1)
    (gated,) = found(grant(requires_task_gate="Security")).by_name.values()
    assert (gated.gates, gated.needs_task) == (("Security",), True)
    (votes,) = found(grant(actions={"merge": action(level=3, least_level=3)})).by_name.values()
    assert votes.needs_task
    (by_params,) = found(grant(actions={"post": action(level=3, least_level=2)})).by_name.values()
    assert not by_params.needs_task


@tries
@given(
    st.dictionaries(st.sampled_from(list(grant())), values), st.dictionaries(st.sampled_from(list(action())), values)
)
def test_whatever_a_snapshot_says_it_harms_no_other_grant(wrong: dict[str, Any], wrong_action: dict[str, Any]) -> None:
    """A member of a wrong type takes its own action away at the most, or nothing."""
    strange = grant("json", actions={"transform": action(**wrong_action)}) | wrong
    offered = found(strange, "nonsense", None, grant()).by_name
    assert "ext_github_get_issue" in offered
    json.dumps({name: offer._asdict() for name, offer in offered.items()})


@tries
@given(values)
def test_a_snapshot_that_is_none_offers_nothing(value: Any) -> None:
    """Neither a grant nor a list of them."""
    assert not offers({"capabilities": value, "providers_available": ["github"]}, NOW).by_name
    assert not offers({"capabilities": [grant()], "providers_available": value}, NOW).by_name
