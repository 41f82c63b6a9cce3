"""An answer as the MCP tools give it: a denial is one, too."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field

from nanoclaw_agent.response import Response

Status = Literal["executed", "denied", "failed", "timeout"]


class Answer(BaseModel):
    """What the host answered. `status` says what happened; for anything but `executed` read `code` and `next_steps`."""

    status: Annotated[Status, Field(description="what happened")]
    code: Annotated[str, Field(description="why, in a stable word; OK where executed")] = ""
    data: Annotated[Any, Field(description="what was asked for")] = None
    summary: str = ""
    error: Annotated[str, Field(description="why not, in words")] = ""
    facts: Annotated[Mapping[str, Any], Field(description="what the decision rested on")] = {}
    next_steps: Annotated[tuple[str, ...], Field(description="what would make it pass")] = ()
    request_id: str = ""


def answer(response: Response) -> Answer:
    """A response as the tools give it; a status unknown here is a failure that keeps its code."""
    fields = response._asdict()
    if response.status not in get_args(Status):
        fields |= {"status": "failed", "code": response.code or response.status.upper()}
    return Answer(**fields)
