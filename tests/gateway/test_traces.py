"""Where the span of a request file stands, and what an agent may say about its own."""

from typing import Any

import pytest

from nanoclaw.gateway.v1 import gateway_pb2 as gateway
from nanoclaw_ipc_gateway.trace import agent_span, place
from nanoclaw_telemetry import TraceContext, setup

CREATE = {"type": "gov_create", "title": "t", "task_type": "BUG"}
DISPATCH = TraceContext.parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
OWN = "00-4bf92f3577b34da6a3ce929d0e0e4736-1111111111111111-01"
FOREIGN = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-2222222222222222-01"


def test_a_context_of_the_dispatchs_trace_counts() -> None:
    """The request hangs under the agent's own span."""
    spot = place(DISPATCH, OWN)
    assert spot.parent is not None
    assert (spot.parent.traceparent, spot.links, spot.agent) == (OWN, (), spot.parent)
    assert DISPATCH is not None
    assert spot.span.trace_id == DISPATCH.trace_id


@pytest.mark.parametrize("dispatch", [DISPATCH, None])
def test_a_foreign_context_is_a_link_and_no_more(dispatch: TraceContext | None) -> None:
    """An agent can't write itself into another trace."""
    spot = place(dispatch, FOREIGN)
    assert (spot.parent, spot.agent) == (dispatch, None)
    assert [link.traceparent for link in spot.links] == [FOREIGN]
    assert spot.span.trace_id not in FOREIGN


@pytest.mark.parametrize("nonsense", [None, 7, "", "x", OWN[:-3], {"a": 1}, OWN.upper()])
def test_nonsense_is_nothing(nonsense: Any) -> None:
    """And no reason to refuse the request."""
    spot = place(DISPATCH, nonsense)
    assert (spot.parent, spot.links, spot.agent) == (DISPATCH, (), None)


def test_a_span_that_makes_sense_is_taken() -> None:
    """To the microsecond."""
    span = agent_span({"name": "think", "start": "2026-11-21T03:24:35.000001Z", "end": "2026-11-21T03:24:36Z"})
    assert span is not None
    assert (span.name, span.end_ns - span.start_ns) == ("think", 999_999_000)


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"name": "x" * 101}, {"name": "a\nb"}, {"name": 1}, {"start": "soon"}, {"end": None},
     {"end": "2026-11-21T03:24:34Z"}, {"end": "2027-11-21T03:24:34Z"}, {"start": "0001-01-01T00:00:00Z"}],
)  # fmt: skip
def test_a_span_that_makes_none_is_ignored(change: dict[str, Any]) -> None:
    """Names are bounded and printable, times are times."""
    good = {"name": "think", "start": "2026-11-21T03:24:35Z", "end": "2026-11-21T03:24:36Z"}
    assert agent_span(good)
    assert agent_span(good | change) is None


async def test_one_trace_holds_the_agent_the_file_and_the_call(world: Any, collector: Any) -> None:
    """From the attempt's span over the agent's own and the file's to governance; a foreign trace is linked."""
    world.telemetry = setup("gateway", collector.environ)
    async with world.running():
        await world.stub("services/dispatcher").OpenMailbox(
            gateway.OpenMailboxRequest(
                request_id="o", attempt_id="nc-a-1", group="developer", task_id="t-1", fence=1,
                traceparent=DISPATCH.traceparent if DISPATCH else "",
            )
        )  # fmt: skip
        agent = world.attempt("nc-a-1")
        span = {"name": "agent.think", "start": "2026-11-21T03:24:35Z", "end": "2026-11-21T03:24:36Z"}
        await agent.ask({**CREATE, "request_id": "own", "traceparent": OWN, "span": span})
        await agent.ask({**CREATE, "request_id": "foreign", "traceparent": FOREIGN, "span": span})
    world.telemetry.shutdown()
    spans = await collector.wait_for(lambda spans: sum(s.name == "ipc.request" for s in spans) >= 2)
    own, foreign = sorted((s for s in spans if s.name == "ipc.request"), key=lambda s: s.parent_id, reverse=True)
    (thought,) = [s for s in spans if s.name == "agent.think"]
    assert (thought.span_id, thought.parent_id, own.parent_id) == ("1" * 16, "00f067aa0ba902b7", "1" * 16)
    assert "agent" in thought.service
    assert foreign.parent_id == "00f067aa0ba902b7"
    assert [link[0] for link in foreign.links] == ["a" * 32]
    assert {own.trace_id, foreign.trace_id, thought.trace_id} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert own.attributes["nanoclaw.type"] == "gov_create"
    assert "title" not in str(own.attributes)
    assert world.governance.faults.traces == ["4bf92f3577b34da6a3ce929d0e0e4736"] * 2
