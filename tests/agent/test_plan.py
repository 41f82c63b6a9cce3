"""The plan format says what docs/agents.md says it does, and refuses the rest."""

import json

import pytest

from nanoclaw_agent.plan import Plan, Step, read_plan


def plan_of(description: str) -> Plan:
    return read_plan({"description": description})


def test_prose_is_no_plan() -> None:
    """Most descriptions have none."""
    assert plan_of("Please fix the login.\nThings to do: many\n\n```\ncode\n```\n") == Plan()
    assert read_plan({}) == Plan()


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("write notes.md: a: b\\nc", Step("write", "a: b\nc", "notes.md")),
        ("write a/b.txt:", Step("write", "", "a/b.txt")),
        ('call json transform {"a": {"b": "}"}}', Step("call", target=("json", "transform"), params={"a": {"b": "}"}})),
        ("call logs services", Step("call", target=("logs", "services"))),
        (
            'try call http get {"url": "u"} -> out/x.json',
            Step("call", path="out/x.json", target=("http", "get"), params={"url": "u"}, lenient=True),
        ),
        ("message hello there", Step("message", "hello there")),
        ("summary all done", Step("summary", "all done")),
        ("wait 0.5", Step("wait", "0.5")),
        ("block which one?", Step("block", "which one?")),
        ("block once: which one?", Step("block", "which one?", times=1)),
        ("fail 2 times: no luck", Step("fail", "no luck", times=2)),
        ("fail always", Step("fail", "always")),
    ],
)
def test_each_step_is_read_from_a_line_a_block_and_the_metadata(line: str, step: Step) -> None:
    """Three places, one meaning."""
    assert plan_of(f"Fix it.\n\n  do: {line}  \nthanks").work == (step,)
    assert plan_of(f"Fix it.\n```nanoclaw\n# how\n\n{line}\n```\nthanks").work == (step,)
    assert read_plan({"metadata": {"plan": [line]}}).work == (step,)
    assert read_plan({"metadata_json": json.dumps({"plan": f"do: {line}\n"})}).work == (step,)


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("require evidence", Step("require", path="evidence")),
        ("require mention lockout", Step("require", "lockout", path="mention")),
        ("send back once: say how", Step("send_back", "say how", times=1)),
        ("send back 3 times: again", Step("send_back", "again", times=3)),
        ("block ask legal", Step("block", "ask legal")),
    ],
)
def test_what_a_reviewer_insists_on(line: str, step: Step) -> None:
    """Review lines are for the reviewer alone."""
    assert plan_of(f"do: write a: b\nreview: {line}") == Plan((Step("write", "b", "a"),), (step,))


@pytest.mark.parametrize(
    "line",
    [
        "do: dance",
        "do: write /etc/passwd: x",
        "do: write ../x: x",
        "do: write a/../../x: x",
        "do: write notes.md",
        "do: call json",
        'do: call json transform {"a": }',
        "do: call json transform 12",
        "do: call json transform {} -> ../x",
        "do: wait soon",
        "do: message",
        "review: be nice",
    ],
)
def test_a_line_that_cannot_be_followed_is_quoted_in_the_error(line: str) -> None:
    """The agent blocks its task with it, and a person sees which line."""
    with pytest.raises(ValueError, match="can't follow"):
        plan_of(line)
