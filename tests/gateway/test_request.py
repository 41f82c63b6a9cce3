"""The content of request files: every type, every field, every violation at once."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_core.errors import NanoclawError
from nanoclaw_ipc_gateway.request import MESSAGES, SERVED, TASKS, UNSERVED, named, parse

FULL: dict[str, dict[str, Any]] = {
    "gov_create": {
        "title": "t",
        "task_type": "BUG",
        "description": "d",
        "priority": "P0",
        "product": "p",
        "product_id": "pid",
        "scope": "PRODUCT",
        "assigned_group": "developer",
        "gate": "None",
        "metadata": {"a": 1},
        "id": "t-1",
    },
    "gov_transition": {"taskId": "t-1", "toState": "REVIEW", "reason": "r", "expectedVersion": 3},
    "gov_approve": {"taskId": "t-1", "gate_type": "Security", "notes": "n"},
    "gov_assign": {"taskId": "t-1", "assigned_group": "developer", "executor": "e"},
    "ext_call": {
        "request_id": "ext-1",
        "provider": "json",
        "action": "transform",
        "params": {},
        "task_id": "t-1",
        "idempotency_key": "k",
        "timestamp": "2026-11-21T03:24:35.296Z",
        "sig": "00",
    },
    "ext_grant": {
        "group_folder": "developer",
        "provider": "json",
        "access_level": 1,
        "allowed_actions": None,
        "denied_actions": ["x"],
        "requires_task_gate": "Security",
        "product_id": "pid",
    },
    "ext_revoke": {"group_folder": "developer", "provider": "json", "product_id": "pid"},
    "ext_pending": {"task_id": "t-1"},
    "ext_approve": {"call_id": "c-1", "params_digest": "d", "notes": "n"},
    "ext_reject": {"call_id": "c-1", "params_digest": "d", "notes": "n"},
}
REQUIRED = {
    "gov_create": {"title", "task_type"},
    "gov_transition": {"taskId", "toState"},
    "gov_approve": {"taskId", "gate_type"},
    "gov_assign": {"taskId", "assigned_group"},
    "ext_call": {"request_id", "provider", "action", "params"},
    "ext_grant": {"group_folder", "provider", "access_level"},
    "ext_revoke": {"group_folder", "provider"},
    "ext_pending": set(),
    "ext_approve": {"call_id", "params_digest"},
    "ext_reject": {"call_id", "params_digest"},
}


def refusal(value: dict[str, Any]) -> NanoclawError:
    """What a request is refused with."""
    with pytest.raises(NanoclawError) as caught:
        parse(value)
    return caught.value


def test_every_served_type_is_tried_here() -> None:
    """A new type needs its row in the tables above."""
    assert FULL.keys() == REQUIRED.keys() == SERVED.keys()


@pytest.mark.parametrize("kind", FULL)
def test_all_fields_of_a_type_are_read_under_their_wire_names(kind: str) -> None:
    """The names that agents write are the names of the fields."""
    body = parse({"type": kind, **FULL[kind]}).body
    for name, value in FULL[kind].items():
        if name not in ("timestamp", "sig"):
            assert getattr(body, name) == value


@pytest.mark.parametrize("kind", [kind for kind in FULL if REQUIRED[kind]])
def test_only_what_is_required_is_missed(kind: str) -> None:
    """And all that is missing is named at once. Null counts as absent where a field is optional."""
    error = refusal({"type": kind})
    assert error.reason == "INVALID_FIELD"
    assert {violation.field for violation in error.violations} == REQUIRED[kind]
    assert all(violation.next_step for violation in error.violations)
    bare = {name: value if name in REQUIRED[kind] else None for name, value in FULL[kind].items()}
    assert parse({"type": kind, **bare}).type == kind


@pytest.mark.parametrize("kind", FULL)
def test_a_field_of_the_wrong_type_is_named(kind: str) -> None:
    """Nothing is converted behind the agent's back."""
    for name in FULL[kind]:
        if name in ("timestamp", "sig"):
            continue
        wrong: Any = [1] if name != "params" else "x"
        error = refusal({"type": kind, **FULL[kind], name: wrong})
        assert {violation.field.partition(".")[0] for violation in error.violations} == {name}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("gov_transition", "taskId", "../x"),
        ("gov_transition", "taskId", ".hidden"),
        ("gov_transition", "taskId", "x" * 129),
        ("gov_transition", "toState", "review"),
        ("gov_transition", "toState", "UNSPECIFIED"),
        ("gov_transition", "expectedVersion", "3"),
        ("gov_transition", "expectedVersion", 3.5),
        ("gov_transition", "expectedVersion", True),
        ("gov_transition", "expectedVersion", -1),
        ("gov_transition", "expectedVersion", 2**63),
        ("gov_create", "task_type", "CHORE"),
        ("gov_create", "gate", "NONE"),
        ("gov_create", "priority", "P4"),
        ("gov_create", "title", ""),
        ("gov_create", "assigned_group", "Developer"),
        ("gov_create", "id", "a/b"),
        ("ext_grant", "access_level", 4),
        ("ext_grant", "access_level", True),
        ("ext_grant", "allowed_actions", [1]),
        ("ext_call", "request_id", "a b"),
        ("ext_call", "request_id", "a\n"),
    ],
)
def test_values_outside_of_what_there_is_are_refused(kind: str, field: str, value: Any) -> None:
    """Fail closed, with a sentence that names the field."""
    error = refusal({"type": kind, **FULL[kind], field: value})
    assert [violation.field.partition(".")[0] for violation in error.violations] == [field]


def test_numbers_and_levels_are_taken_as_agents_write_them() -> None:
    """JavaScript has one kind of number; a level may be spelled out."""
    assert parse({"type": "gov_transition", **FULL["gov_transition"], "expectedVersion": 3.0}).body.expectedVersion == 3  # type: ignore[attr-defined]
    for level in (2, 2.0, "L2"):
        assert parse({"type": "ext_grant", **FULL["ext_grant"], "access_level": level}).body.access_level == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", sorted(UNSERVED))
def test_a_type_that_nobody_serves_is_known_all_the_same(kind: str) -> None:
    """So that it is answered, not quarantined, whatever fields it has."""
    assert parse({"type": kind, "prompt": 1, "x": []}).type == kind


@pytest.mark.parametrize("kind", [None, 1, [], "", "GOV_CREATE", "message", "exec"])
def test_an_unknown_type_is_no_request(kind: Any) -> None:
    """A message belongs into the folder of messages."""
    assert refusal({"type": kind}).reason == "UNKNOWN_TYPE"
    assert refusal({}).reason == "UNKNOWN_TYPE"


def test_messages_are_the_only_thing_in_their_folder() -> None:
    """Requests written there are not acted on."""
    assert parse({"type": "message", "text": "x", "chatJid": "y"}, MESSAGES).type == "message"
    for value in ({"type": "message", "text": ""}, {"type": "message"}, {"type": "gov_create", **FULL["gov_create"]}):
        with pytest.raises(NanoclawError):
            parse(value, MESSAGES)


def test_claims_about_the_sender_are_ignored() -> None:
    """The directory is the identity."""
    value = {"type": "gov_transition", **FULL["gov_transition"], "group": "main", "groupFolder": "main", "isMain": True}
    assert not {"group", "groupFolder", "isMain"} & parse(value).body.model_dump().keys()


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.none()), max_size=4), st.data())
def test_no_object_gets_more_than_a_refusal(value: dict[str, Any], data: st.DataObject) -> None:
    """Any JSON under any type is a request or a NanoclawError that says why not."""
    kind = data.draw(st.sampled_from(sorted(TASKS)) | st.text())
    fields = data.draw(
        st.fixed_dictionaries(
            {}, optional={name: st.sampled_from([None, 1, "x", [], {}]) for name in FULL.get(kind, {})}
        )
    )
    with contextlib.suppress(NanoclawError):
        parse({**value, **fields, "type": kind})
    assert isinstance(named({**value, **fields}), str)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".x", "", "x" * 129, "a\0", 7, None, ["x"], "é"])
def test_a_request_id_that_is_no_file_name_names_nothing(name: Any) -> None:
    """It never becomes part of a path."""
    assert named({"request_id": name}) == ""
