"""The provider json: what expressions may do, and that none can hold the broker up."""

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanoclaw_broker.providers import ActionFailed, Effect, Environment, Kind
from nanoclaw_broker.providers.jmespath_bounded import NotAnExpression, TooMuchWork, compile_expression, search
from nanoclaw_broker.providers.json_transform import MOST_EXPRESSION, TransformParams, provider

TOO_LONG_SECONDS = 1.0


def run(expression: str, data: Any = None) -> Any:
    return search(compile_expression(expression), data)


@pytest.mark.parametrize(
    ("expression", "data", "value"),
    [
        ("@", [1, {"a": None}], [1, {"a": None}]),
        (
            "{cents: sum(spend[*].cents), who: spend[*].who}",
            {"spend": [{"cents": 1, "who": "a"}]},
            {"cents": 1, "who": ["a"]},
        ),
        ("[?age > `30`].name", [{"age": 31, "name": "x"}, {"age": 30, "name": "y"}], ["x"]),
        ("sort_by(@, &n)[*].n", [{"n": 2}, {"n": 1}], [1, 2]),
        ("a == b", {"a": [1], "b": [1]}, True),
        ("a != b", {"a": [1], "b": [2]}, True),
        ("a < b", {"a": 1, "b": 2}, True),
        ("a < b", {"a": {}, "b": 2}, None),
        ("join(',', @)", ["a", "b"], "a,b"),
        ("missing.deeply[0]", {}, None),
        ("length(@)", "héé", 3),
    ],
)
def test_expressions_do_what_jmespath_says(expression: str, data: Any, value: Any) -> None:
    """The library's own semantics, guarded or not."""
    assert run(expression, data) == value


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What other tests left is not destroyed in the depths of a recursion, where destructors have no room and fail."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "expression",
    ["", "[", "a..b", "foo(@)", "sort(@)", "&a", "(" * 3000, "[?" * 1000, "`[" * 500, "abs('x')", "@[::0]", "join(@)"],
)
def test_what_makes_no_sense_is_refused_without_showing_data(expression: str) -> None:
    """A reason, never a value."""
    with pytest.raises(NotAnExpression) as raised:
        run(expression, ["planted", 1, {"planted": 2}])
    assert "planted" not in str(raised.value)


HOSTILE = {
    "doubling a list": ("|".join(["[@,@][]"] * 300), [1]),
    "a tree of shared nodes": ("|".join(["[@,@]"] * 60), 1),
    "comparing shared trees": ("(" + "|".join(["[@,@]"] * 40) + ") == (" + "|".join(["[@,@]"] * 40) + ")", 1),
    "printing a shared tree": ("to_string(" + "|".join(["[@,@]"] * 40) + ")", 1),
    "a shared tree inside contains": ("contains([@], " + "|".join(["[@,@]"] * 40) + ")", 1),
    "joining with a long separator": ("join(@[0], @[1])", ["x" * 900_000, ["y"] * 2_000]),
    "maps in maps": ("[*].[*].[*].[*]|" * 5 + "@", [[[[1] * 30] * 30] * 30] * 30),
    "nested comparators": ("(" * 200 + "@" + "==@)" * 200, {"a": [1] * 1000}),
    "sorting by an expensive key": ("sort_by(@, &to_string(@))", [{"a": "x" * 1000} for _ in range(5000)]),
    "merging": ("merge(" + ",".join(["@"] * 500) + ")", {str(i): i for i in range(5000)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_expression_takes_long(name: str) -> None:
    """Work is counted, so that one agent's expression does not keep the others waiting."""
    expression, data = HOSTILE[name]
    began = time.process_time()
    try:
        value = run(expression, data)
        assert len(json.dumps(value)) < 10_000_000
    except (TooMuchWork, NotAnExpression):
        pass
    assert time.process_time() - began < TOO_LONG_SECONDS


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
tokens = st.lists(
    st.sampled_from(
        ["@", "a", "b", ".", "[", "]", "[]", "*", "[*]", "?", "|", "||", "&&", "!", "&", "(", ")", ",", "{", "}", ":",
         "==", "`1`", "`[1]`", "'x'", "0", "sort_by(", "sum(", "to_string(", "map(&", "join('',", "length(", "keys("]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=400)
@given(tokens | st.text(max_size=20), values)
def test_no_expression_breaks_anything(expression: str, data: Any) -> None:
    """A value or one of two refusals; nothing else comes out, and the data is left as it was."""
    before = repr(data)
    with contextlib.suppress(NotAnExpression, TooMuchWork):
        run(expression, data)
    assert repr(data) == before


async def test_the_action_is_pure_and_says_why_it_failed() -> None:
    """FAILED with a code; the ledger's line shows lengths only."""
    (transform,) = provider(Environment(home=None)).actions  # type: ignore[arg-type]
    assert (transform.kind, transform.timeout_seconds) == (Kind.PURE, 5.0)
    for expression, code in (("[", "INVALID_EXPRESSION"), ("|".join(["[@,@][]"] * 100), "TOO_MUCH_WORK")):
        with pytest.raises(ActionFailed) as raised:
            await transform.execute(TransformParams(expression=expression, data=[1]), Effect("key", "developer"))
        assert raised.value.code == code
    assert transform.summary(TransformParams(expression="planted", data="planted")) == "an expression of 7 characters"
    with pytest.raises(ValueError):
        TransformParams(expression="a" * (MOST_EXPRESSION + 1), data=1)


async def test_not_a_number_does_not_leave_the_broker(broker: Any) -> None:
    """What JSON can't say fails the call."""
    await broker.grant("json", 2)
    answer = await broker.call("json", "transform", {"expression": "to_number('nan')", "data": 1})
    assert answer.code == "ANSWER_NOT_JSON"
