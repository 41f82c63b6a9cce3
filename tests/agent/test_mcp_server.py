"""The MCP server, over stdio as a coding agent starts it and in this process: tools with types, answers as data."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client

from nanoclaw_agent.client import Client as FileClient
from nanoclaw_agent.environment import Environment
from nanoclaw_agent.mcp_server import build

FOR_MAIN = {"gov_create", "gov_assign", "ext_grant", "ext_revoke"}
TOOLS = {
    "gov_transition",
    "gov_approve",
    "list_tasks",
    "ext_capabilities",
    "ext_pending",
    "ext_approve",
    "ext_reject",
    "send_message",
    "schedule_task",
    "pause_task",
    "resume_task",
    "cancel_task",
    "runtime_query",
    "runtime_simulate",
}


def session(ipc: Path) -> Client:
    """A session with the server in this process."""
    return Client(build(FileClient(Environment(str(ipc), group="developer"))))


@asynccontextmanager
async def process_session(ipc: Path, group: str = "developer") -> AsyncIterator[ClientSession]:
    """A session with a server process of its own. Used inside the test: its task group must not outlive the task."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "nanoclaw_agent.mcp_server"],
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | Environment(str(ipc), group=group).variables(),
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def test_every_request_is_offered_as_a_tool_with_a_schema_and_words(ipc: Path) -> None:
    """What a model needs to use them: a description, typed parameters, a typed answer."""
    async with process_session(ipc) as mcp:
        tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
        message = await mcp.call_tool("send_message", {"text": "hello"})
    assert message.structured_content["status"] == "executed"
    assert len(list((ipc / "messages").iterdir())) == 1
    assert set(tools) == TOOLS
    assert all(tool.description and tool.output_schema for tool in tools.values())
    transition = tools["gov_transition"].input_schema
    assert set(transition["required"]) == {"task_id", "to_state"}
    assert "DONE" in str(transition["properties"]["to_state"])


@pytest.mark.parametrize("group", ["main", "security", ""])
async def test_what_only_main_may_ask_for_is_listed_for_main(ipc: Path, group: str) -> None:
    """Every other group's request would be denied; where nobody says whose mailbox it is, nothing is left out."""
    async with Client(build(FileClient(Environment(str(ipc), group=group)))) as mcp:
        tools = {tool.name for tool in (await mcp.list_tools()).tools}
    assert tools == (TOOLS if group == "security" else TOOLS | FOR_MAIN)


async def test_a_tool_writes_the_request_file_and_gives_the_answer_as_data(ipc: Path, host: Any) -> None:
    """Executed and denied look alike but for what they say; neither is an exception."""
    host.answer = lambda request: (
        {"status": "executed", "code": "OK", "data": {"n": 1}}
        if request["type"] == "ext_call"
        else {"status": "denied", "code": "NOT_PERMITTED", "error": "no", "next_steps": ["ask main"]}
    )
    async with session(ipc) as mcp:
        done = await mcp.call_tool("ext_call", {"provider": "json", "action": "transform", "params": {"a": 1}})
        denied = await mcp.call_tool("gov_transition", {"task_id": "t1", "to_state": "DONE"})
    assert not done.is_error
    assert not denied.is_error
    assert done.structured_content["data"] == {"n": 1}
    assert denied.structured_content["status"] == "denied"
    assert denied.structured_content["code"] == "NOT_PERMITTED"
    assert denied.structured_content["next_steps"] == ["ask main"]
    call, transition = host.requests
    assert call["sig"]
    assert (transition["taskId"], transition["toState"]) == ("t1", "DONE")


async def test_what_the_gateway_does_not_serve_yet_is_an_answer_too(ipc: Path, host: Any) -> None:
    """schedule_* and runtime_* are known, and NOT_SUPPORTED."""
    host.answer = lambda request: {"status": "failed", "code": "NOT_SUPPORTED", "error": request["type"]}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("schedule_task", {"prompt": "p", "schedule_type": "once", "schedule_value": "2026-12-01T00:00:00"}),
        ("pause_task", {"task_id": "s1"}),
        ("resume_task", {"task_id": "s1"}),
        ("cancel_task", {"task_id": "s1"}),
        ("runtime_query", {"question": "remaining_budget"}),
        ("runtime_simulate", {"plan": {"steps": []}, "budget_cents": 100}),
    ]
    async with session(ipc) as mcp:
        for name, arguments in calls:
            result = await mcp.call_tool(name, arguments)
            assert (result.structured_content["code"], result.structured_content["error"]) == ("NOT_SUPPORTED", name)


async def test_snapshots_and_messages_need_no_answer_from_the_host(ipc: Path) -> None:
    """Read and written while the gateway is down."""
    (ipc / "gov_pipeline.json").write_text('{"tasks": [{"id": "t1", "state": "DOING"}, {"id": "t2", "state": "DONE"}]}')
    (ipc / "ext_capabilities.json").write_text('{"capabilities": [], "providers_available": ["json"]}')
    async with session(ipc) as mcp:
        tasks = await mcp.call_tool("list_tasks", {"state": "DOING"})
        capabilities = await mcp.call_tool("ext_capabilities", {})
        message = await mcp.call_tool("send_message", {"text": "hello"})
    assert tasks.structured_content["data"] == {"tasks": [{"id": "t1", "state": "DOING"}]}
    assert capabilities.structured_content["data"]["providers_available"] == ["json"]
    assert message.structured_content["status"] == "executed"
    assert len(list((ipc / "messages").iterdir())) == 1


async def test_arguments_that_do_not_fit_the_schema_write_nothing(ipc: Path, host: Any) -> None:
    """The model is told which one; the host never hears of it."""
    wrong: list[dict[str, Any]] = [
        {"task_id": "t1"},
        {"task_id": "t1", "to_state": "FINISHED"},
        {"task_id": 1, "to_state": "DONE"},
    ]
    async with session(ipc) as mcp:
        for arguments in wrong:
            assert (await mcp.call_tool("gov_transition", arguments)).is_error
    assert host.requests == []
