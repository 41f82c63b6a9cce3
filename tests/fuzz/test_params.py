"""Parameters: read strictly, hashed the same for the same meaning; no action breaks over them or tells them on."""

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hostile import damaged, dumped, nearly_json, numbers, texts, values
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from nanoclaw_broker.params import DEEPEST, digest, keyed_hash, parse
from nanoclaw_broker.providers import Environment
from nanoclaw_broker.providers.builtin import BUILTIN
from nanoclaw_broker.providers.mcp.cpu_limit import within
from nanoclaw_broker.registry import Registry, load
from nanoclaw_broker.secrets import Secrets
from nanoclaw_core.canonical import canonical
from nanoclaw_core.errors import NanoclawError

MARK = "p1anted-words-of-an-agent"
CONFIG = {
    "github": {"repos": ["acme/*"]},
    "llm": {"models": {"m": {"input": 1.0, "output": 1.0}}},
    "http": {"write": {"api.example.com": {"idempotency_key": True}, "other.example.com": {}}},
    "sql": {"databases": {"notes": {"url": "sqlite:///srv/notes.db"}}},
}
REGISTRY = Registry(
    load(Environment(Path("/nowhere"), "api.example.com", lambda name: SecretStr("x" * 9), CONFIG), BUILTIN, []),
    Secrets(Path("/nowhere/secrets")),
)
ACTIONS = [(provider.name, action.name) for provider in REGISTRY.providers for action in provider.actions]
FITTING: dict[str, list[Any]] = {
    "repo": ["acme/shop", "other/x", "acme/.."],
    "number": [1, 2**70],
    "sha": ["a" * 40],
    "url": ["https://api.example.com/p", f"https://api.example.com/{MARK}?q={MARK}", "http://[::1", "https://é.example.com/",
            "https://api.example.com:99999/", "https://xn--/", "http://0x7f.1/", "https://other.example.com"],
    "database": ["notes", "x"],
    "sql": [f"SELECT '{MARK}'", f"INSERT INTO x VALUES ('{MARK}')", "/*", "((((", "--"],
    "model": ["m", "n"],
    "max_tokens": [1, 10**9],
    "messages": [[{"role": "user", "content": MARK}], [{"role": "user", "content": [{"type": "image", "source": {}}]}]],
    "expression": ["x", "x[?a]", "[" * 50, f"'{MARK}'"],
}  # fmt: skip

NAMES: dict[str, list[Any]] = {"service": ["governance", "../etc", "", 1, []]}
"""Fields that name something of ours, which a summary shows: no words of an agent's."""


@given(nearly_json | damaged(values.map(dumped)))
def test_parameters_are_an_object_or_refused(raw: bytes) -> None:
    """Whatever the bytes. What was read has one canonical text, which reads as the same."""
    text = raw.decode(errors="replace")
    try:
        found = parse(text)
        keyed = keyed_hash(b"k" * 32, "p", "a", found)
    except NanoclawError:
        return
    assert len(keyed) == len(digest("p", "a", found)) == 64
    assert canonical(json.loads(canonical(found))) == canonical(found)
    again = dict(reversed(list(found.items())))
    assert (keyed_hash(b"k" * 32, "p", "a", again), digest("p", "a", again)) == (keyed, digest("p", "a", found))


@given(st.integers(1, 200_000), st.sampled_from(["[", '{"a":', '[{"a":']))
def test_no_depth_breaks_the_reader(deep: int, opening: str) -> None:
    """Neither closed nor left open."""
    for text in (opening * deep, '{"x":' + "[" * deep + "]" * deep + "}"):
        try:
            parse(text[: 2**20])
            assert deep < DEEPEST
        except NanoclawError:
            pass


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """An action with parameters under its own names, many of which fit."""
    name, action_name = draw(st.sampled_from(ACTIONS))
    provider = REGISTRY.get(name)
    assert provider is not None
    properties = json.loads(provider.by_name[action_name].params_schema)["properties"]
    anything = values | numbers | texts | st.just(MARK)

    def fitting(field: str) -> st.SearchStrategy[Any]:
        if field in NAMES:
            return st.sampled_from(NAMES[field])
        return st.sampled_from(FITTING[field]) if field in FITTING else st.sampled_from([MARK, [], {}, 1, True])

    required = {field for field in properties if draw(st.integers(0, 9)) or field in FITTING}
    params = {
        field: draw(fitting(field) if draw(st.integers(0, 5)) or field in NAMES else anything) for field in required
    }
    if not draw(st.integers(0, 9)):
        params[draw(texts)] = draw(anything)
    return name, action_name, params


@given(asked())
def test_no_parameters_break_an_action(request: tuple[str, str, dict[str, Any]]) -> None:
    """They are refused with a code, or fit; all that is asked before it runs has an answer, and none of their words."""
    name, action_name, params = request
    skill, action, fitted = REGISTRY.find(name, action_name, params)
    assert action is not None
    if fitted is None:
        assert skill.problems
        assert all(problem.code and problem.message for problem in skill.problems)
        return
    action.circuit(fitted)
    action.render(fitted)
    action.unknown_end_of(fitted)
    assert action.cost_micros(fitted) >= 0
    assert MARK not in action.summary(fitted)


ENDLESS = (
    " ", "\n", "a", "A1", "a.", "a-", "@", "a@a.", "/", "/*", "/* */", "--", "-- \n", "(", "[", "{", "\\", "'", '"',
    "`", "%41", "?", "&&", "||", "xn--", "https://", "::", "..", "é", "\u0300", "\u202e",
)  # fmt: skip
"""What an expression with repeats of repeats tries to part in every way that there is."""


@pytest.mark.parametrize("of", ACTIONS, ids=".".join)
def test_no_parameter_keeps_an_action_busy(of: tuple[str, str]) -> None:
    """The same few characters again and again: each is looked at within a second of the processor's time."""
    provider = REGISTRY.get(of[0])
    assert provider is not None
    fields = json.loads(provider.by_name[of[1]].params_schema).get("properties", {})
    others = {field: FITTING[field][0] for field in fields if field in FITTING}
    for field, unit, size in itertools.product(fields, ENDLESS, (60, 60_000)):
        text = (unit * size)[:size]
        for value in (text, text + "\x01", f"https://api.example.com/{text}", [text] * 3, {text: text}):
            within(1.0, partial(_look, of, {**others, field: value}))


def _look(of: tuple[str, str], params: dict[str, Any]) -> None:
    _, action, fitted = REGISTRY.find(*of, params)
    if action is not None and fitted is not None:
        action.circuit(fitted)
        action.summary(fitted)
        action.render(fitted)
        action.cost_micros(fitted)
