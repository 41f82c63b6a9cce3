"""The plan format of the reference agents: what a task's description tells them to do, a line a step.

Lines that begin with `do:` or `review:` anywhere in the description, all lines of a block fenced with ```nanoclaw
(where `do:` may be left out), and the lines of `plan` in the task's metadata. In a block, blank lines and `#` comments
are skipped.

    do: write notes.md: first line\\nsecond line     a file in the group's folder; \\n breaks the line
    do: call json transform {"a": 1} -> out.json     a call through the broker; `-> file` keeps its data
    do: try call http get {"url": "…"}               the same, and a no is noted instead of blocking the task
    do: think claude-haiku-4-5: Name it -> name.md   asks a model by the group's relay; `-> file` keeps its answer
    do: message I have begun                         to the operator
    do: wait 0.5                                     seconds
    do: block REASON        do: block once: REASON   ends in BLOCKED; `once`: not when started again after it
    do: fail REASON         do: fail 2 times: REASON ends with exit code 1; `N times`: in the first N attempts
    do: summary TEXT                                 handed in instead of the list of what was done
    review: require evidence                         the reviewer sends it back without
    review: require mention WORD                     … in the summary
    review: send back once: REASON
    review: block REASON
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_LINE = re.compile(r"\s*(do|review):\s*(.*?)\s*", re.IGNORECASE)
_FILE = re.compile(r"[^\0\\]{1,200}")
_decoder = json.JSONDecoder()


class Step(NamedTuple):
    """One step. kind: write, call, think, message, wait, block, fail, summary, require, send_back.

    text: its words. path: of a file to write. target: provider and action of a call, or a model and nothing.
    params: its parameters. lenient: a refused call does not matter. times: in how many starts it applies; 0: in all.
    """

    kind: str
    text: str = ""
    path: str = ""
    target: tuple[str, str] = ("", "")
    params: Mapping[str, Any] = {}
    lenient: bool = False
    times: int = 0


class Plan(NamedTuple):
    """What the executor does and what the reviewer insists on, each in order."""

    work: tuple[Step, ...] = ()
    review: tuple[Step, ...] = ()


def read_plan(task: Mapping[str, Any]) -> Plan:
    """The plan of a task as an agent sees it. Raises ValueError that quotes the first line it can't follow."""
    work: list[Step] = []
    review: list[Step] = []
    for who, line in _lines(task):
        if who == "review":
            review.append(_review_step(line))
        else:
            work.append(_work_step(line))
    return Plan(tuple(work), tuple(review))


def _lines(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    fenced = False
    for line in str(task.get("description") or "").splitlines():
        if line.strip() in ("```nanoclaw", "```") and (fenced or line.strip() != "```"):
            fenced = not fenced
        elif match := _LINE.fullmatch(line):
            found.append((match[1].lower(), match[2]))
        elif fenced and line.strip() and not line.lstrip().startswith("#"):
            found.append(("do", line.strip()))
    for line in _metadata_lines(task):
        match = _LINE.fullmatch(line)
        found.append((match[1].lower(), match[2]) if match else ("do", line.strip()))
    return found


def _metadata_lines(task: Mapping[str, Any]) -> list[str]:
    metadata = task.get("metadata") or task.get("metadata_json") or task.get("metadataJson") or {}
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            return []
    plan = metadata.get("plan") if isinstance(metadata, dict) else None
    lines = plan.splitlines() if isinstance(plan, str) else plan if isinstance(plan, list) else []
    return [line for line in map(str, lines) if line.strip()]


def _work_step(line: str) -> Step:
    verb, _, rest = line.partition(" ")
    rest = rest.strip()
    match verb.lower():
        case "write":
            path, colon, text = rest.partition(":")
            if colon:
                return Step("write", text.strip().replace("\\n", "\n"), _path(path.strip(), line))
        case "call":
            return _call(rest, line)
        case "think":
            return _think(rest, line)
        case "try" if rest.lower().startswith("call "):
            return _call(rest[5:].strip(), line)._replace(lenient=True)
        case "message" | "summary" if rest:
            return Step(verb.lower(), rest)
        case "wait" if re.fullmatch(r"\d+(\.\d+)?", rest):
            return Step("wait", rest)
        case "block" | "fail" if rest:
            return _limited(verb.lower(), rest)
    raise ValueError(f"can't follow the step {line!r}")


def _review_step(line: str) -> Step:
    low = line.lower()
    if low == "require evidence":
        return Step("require", path="evidence")
    if low.startswith("require mention "):
        return Step("require", line[16:].strip(), path="mention")
    if low.startswith("send back "):
        return _limited("send_back", line[10:].strip())
    if low.startswith("block "):
        return _limited("block", line[6:].strip())
    raise ValueError(f"can't follow the reviewer's step {line!r}")


def _limited(kind: str, rest: str) -> Step:
    match = re.fullmatch(r"(?:(once)|(\d{1,3}) times):\s*(.+)", rest, re.IGNORECASE)
    if match is None:
        return Step(kind, rest.removeprefix(":").strip())
    return Step(kind, match[3], times=1 if match[1] else int(match[2]))


def _call(rest: str, line: str) -> Step:
    match = re.fullmatch(r"([\w.-]+)\s+([\w.-]+)\s*(.*)", rest)
    if match is None:
        raise ValueError(f"can't follow the step {line!r}: a call names a provider and an action")
    params: dict[str, Any] = {}
    after = match[3]
    if after.startswith("{"):
        try:
            params, end = _decoder.raw_decode(after)
        except ValueError as error:
            raise ValueError(f"can't follow the step {line!r}: {error}") from None
        after = after[end:].strip()
    keep = re.fullmatch(r"->\s*(\S.*)", after)
    if after and keep is None:
        raise ValueError(f"can't follow the step {line!r}: what is {after!r}?")
    path = _path(keep[1].strip(), line) if keep else ""
    return Step("call", path=path, target=(match[1], match[2]), params=params)


def _think(rest: str, line: str) -> Step:
    match = re.fullmatch(r"([^\s:]+):\s*(.*?\S)(?:\s+->\s*(\S+))?", rest)
    if match is None:
        raise ValueError(f"can't follow the step {line!r}: it names a model, a colon, and what to ask it")
    return Step("think", match[2], _path(match[3], line) if match[3] else "", (match[1], ""))


def _path(path: str, line: str) -> str:
    if not _FILE.fullmatch(path) or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"can't follow the step {line!r}: {path!r} is no file in the group's folder")
    return path
