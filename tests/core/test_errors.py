"""Errors: each one tells what to do next, and a missing thing is named by the field that asked for it."""

import ast
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw_core.errors import Kind, NanoclawError, Violation, file_failed, invalid, not_found

ROOT = Path(__file__).parents[2]
CARRIERS = frozenset({"libs/nanoclaw_core/errors.py", "libs/nanoclaw_rpc/status.py"})
"""Where errors are defined and carried over, not raised."""
SHAPES = {  # what an error is made with → (where its next step stands, what it is called, what else brings one along)
    "NanoclawError": (None, "next_step", {"violations"}),
    "Violation": (2, "next_step", set()),
    "violation": (2, "next_step", set()),
    "invalid": (2, "next_step", set()),
    "denied": (2, "next_step", set()),
    "unauthenticated": (2, "next_step", set()),
    "not_found": (3, "next_step", set()),
    "Refused": (2, "next_step", set()),
    "ActionFailed": (None, "next_steps", set()),
}


def lacking(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each error that is made without a next step."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        made = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if made not in SHAPES:
            continue
        position, word, others = SHAPES[made]
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        if others & named.keys() or None in named:
            continue
        step = named.get(word)
        if step is None and position is not None and len(node.args) > position:
            step = node.args[position]
        empty = isinstance(step, ast.Constant | ast.Tuple) and not getattr(step, "value", getattr(step, "elts", None))
        if step is None or empty:
            yield node.lineno, ast.unparse(node)


def handwritten() -> list[Path]:
    """Every module of ours that runs."""
    found = [path for top in ("libs", "services") for path in (ROOT / top).rglob("*.py")]
    return [path for path in found if ROOT / "libs" / "nanoclaw" not in path.parents]


def test_every_error_says_what_to_do_next() -> None:
    """Whoever reads an error, of whatever service, is told a next step: no place in the code leaves it out."""
    modules = handwritten()
    assert len(modules) > 300
    without = [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in modules
        if str(path.relative_to(ROOT)) not in CARRIERS
        for line, text in lacking(path.read_text())
    ]
    assert without == []


@pytest.mark.parametrize(
    "source",
    [
        "raise NanoclawError(Kind.INVALID, 'NO', 'no')",
        "raise NanoclawError(Kind.INVALID, 'NO', 'no', next_step='')",
        "yield Violation('NO', 'no')",
        "yield Violation('NO', 'no', '', 'field')",
        "raise invalid('field', 'no')",
        "raise not_found('task', name, 'task_id')",
        "raise ActionFailed('NO', 'no', next_steps=())",
    ],
)
def test_the_walk_sees_what_is_left_out(source: str) -> None:
    """The test above would notice."""
    assert len(list(lacking(source))) == 1


def test_a_missing_thing_is_named_by_the_field_that_asked_for_it() -> None:
    """Which field, which name, and where to look: in words, and for programs."""
    error = not_found("task", "t-404", "task_id", "list them with ListTasks")
    assert (error.kind, str(error)) == (Kind.NOT_FOUND, "TASK_NOT_FOUND: task_id: there is no task 't-404'")
    assert (error.next_step, dict(error.facts)) == ("list them with ListTasks", {"field": "task_id", "name": "t-404"})


def test_a_name_that_was_left_out_is_a_field_that_is_required() -> None:
    """Nothing was looked for."""
    error = not_found("task", "", "task_id", "list them with ListTasks")
    assert (error.kind, str(error)) == (Kind.INVALID, "INVALID_FIELD: task_id: is required")
    assert error.violations[0].next_step == "list them with ListTasks"


@pytest.mark.parametrize(
    ("error", "message", "step"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device", "free some space"),
        (OSError(errno.EROFS, "Read-only file system", "/v"), "/v: read-only file system", "set NANOCLAW_HOME"),
        (PermissionError(errno.EACCES, "Permission denied", "/v"), "/v: permission denied", "let this user write"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/v"),
            "/v: no such file or directory",
            "is there",
        ),
        (OSError("odd"), "odd", "see that"),
    ],
)
def test_a_file_that_fails_is_named_with_what_would_help(error: OSError, message: str, step: str) -> None:
    """A full disk wants room, a closed folder another one."""
    found = file_failed(error)
    assert (found.reason, found.message) == ("FILE_FAILED", message)
    assert step in found.next_step


def test_a_violation_s_step_is_the_error_s_where_it_has_none_of_its_own() -> None:
    """Said once, it is found in both places."""
    assert invalid("gate", "is none", "choose one").next_step == "choose one"
    violations = [Violation("A", "a"), Violation("B", "b", "do b"), Violation("C", "c", "do c")]
    assert NanoclawError(Kind.PRECONDITION, "NO", "no", violations=violations).next_step == "do b"
    assert NanoclawError(Kind.PRECONDITION, "NO", "no", violations=violations, next_step="do x").next_step == "do x"
