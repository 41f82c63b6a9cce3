"""What of GitHub's large answers an agent gets: the members that it works with."""

from collections.abc import Mapping
from typing import Any

from nanoclaw_broker.excerpt import excerpt
from nanoclaw_broker.providers.base import NoReply

MOST_TEXT = 8_000
Shape = Mapping[str, Any]

_USER = {"login": True}
_REF = {"ref": True, "sha": True, "label": True}
SHAPES: Mapping[str, Shape] = {
    "repo": dict.fromkeys(
        ("full_name", "description", "default_branch", "private", "archived", "open_issues_count", "html_url"), True
    ),
    "issue": {
        **dict.fromkeys(("number", "title", "state", "body", "created_at", "updated_at", "html_url", "comments"), True),
        "user": _USER, "assignees": _USER, "labels": {"name": True}, "pull_request": {"url": True},
    },
    "comment": {**dict.fromkeys(("id", "body", "created_at", "html_url"), True), "user": _USER},
    "pull": {
        **dict.fromkeys(
            ("number", "title", "state", "body", "draft", "merged", "mergeable", "mergeable_state", "merge_commit_sha",
             "created_at", "updated_at", "html_url"), True
        ),
        "user": _USER, "head": _REF, "base": _REF, "requested_reviewers": _USER,
    },
    "file": dict.fromkeys(("filename", "status", "additions", "deletions", "patch"), True),
    "review": {**dict.fromkeys(("id", "state", "body", "submitted_at", "html_url"), True), "user": _USER},
    "branch": {"name": True, "protected": True, "commit": {"sha": True}},
    "content": dict.fromkeys(("path", "sha", "size", "encoding", "content", "type"), True),
    "ref": {"ref": True, "object": {"sha": True}},
    "release": dict.fromkeys(("id", "tag_name", "name", "draft", "prerelease", "html_url", "created_at"), True),
    "merge": dict.fromkeys(("sha", "merged", "message"), True),
}  # fmt: skip


_TOLD_BY = {"issue": "number", "comment": "id", "pull": "number", "ref": "ref", "release": "id", "merge": "sha"}


def created(value: Any, name: str) -> Any:
    """What was made, of a shape. Raises NoReply for what says nothing of it: a proxy's word is not GitHub's."""
    if not isinstance(value, Mapping) or not value.get(_TOLD_BY[name]):
        raise NoReply("GitHub's answer does not say what was made")
    return shaped(value, SHAPES[name])


def shaped(value: Any, shape: Shape) -> Any:
    """The members of a shape that are there; long texts cut."""
    if isinstance(value, list):
        return [shaped(one, shape) for one in value[:100]]
    if not isinstance(value, Mapping):
        return value
    return {
        name: _cut(value[name]) if inner is True else shaped(value[name], inner)
        for name, inner in shape.items()
        if name in value
    }


def _cut(value: Any) -> Any:
    return excerpt(value, MOST_TEXT) if isinstance(value, str) else value
