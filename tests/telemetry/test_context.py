"""Trace contexts: W3C's form, explicit ids, and one that is current."""

import asyncio
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_telemetry import TraceContext, current_trace, under
from nanoclaw_telemetry.context import running_trace

HEX = "0123456789abcdef"
TRACE_ID = st.text(HEX, min_size=32, max_size=32).filter(lambda text: text != "0" * 32)
SPAN_ID = st.text(HEX, min_size=16, max_size=16).filter(lambda text: text != "0" * 16)


@given(TRACE_ID, SPAN_ID)
def test_a_traceparent_gives_its_context_back(trace_id, span_id):
    """parse(x.traceparent) == x."""
    context = TraceContext(trace_id, span_id)
    assert TraceContext.parse(context.traceparent) == context


T, S = "a" * 32, "b" * 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"00-{T}-{S}",
        f"00-{T}-{S}-1",
        f"00-{T.upper()}-{S}-01",
        f"00-{'0' * 32}-{S}-01",
        f"00-{T}-{'0' * 16}-01",
        f"ff-{T}-{S}-01",
        f"00-{T}-{S}-01\n",
        f" 00-{T}-{S}-01",
        f"00-{T[:-1]}-{S}-01",
    ],
)
def test_what_is_no_traceparent_is_none(text):
    """Hostile headers start a new trace and nothing else."""
    assert TraceContext.parse(text) is None


def test_a_later_version_of_the_header_is_understood():
    """W3C asks readers to take what they know of it."""
    assert TraceContext.parse(f"01-{T}-{S}-00-more") == TraceContext(T, S)


def test_new_contexts_are_well_formed_and_unlike_each_other():
    """Ids are random, of full length."""
    made = [TraceContext.new() for _ in range(1000)]
    assert len({one.trace_id for one in made}) == len({one.span_id for one in made}) == 1000
    assert all(
        re.fullmatch(r"[0-9a-f]{32}", one.trace_id) and re.fullmatch(r"[0-9a-f]{16}", one.span_id) for one in made
    )


def test_a_child_stays_in_the_trace():
    """Another span, the same trace."""
    parent = TraceContext.new()
    assert parent.child().trace_id == parent.trace_id
    assert parent.child().span_id != parent.span_id


def test_a_forked_process_makes_ids_of_its_own():
    """Parent and child would otherwise go on with the same random numbers."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, TraceContext.new().trace_id.encode())
        os._exit(0)
    ours = TraceContext.new().trace_id
    theirs = os.read(reader, 32).decode()
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 32
    assert theirs != ours


def test_under_makes_a_trace_current_for_its_block():
    """Nested blocks give back what was before, also when they fail."""
    outer, inner = TraceContext.new(), TraceContext.new()
    assert running_trace() is None
    with under(outer):
        assert current_trace() == outer
        with pytest.raises(ValueError), under(inner):
            assert current_trace() == inner
            raise ValueError
        assert current_trace() == outer
    assert running_trace() is None
    assert current_trace() != current_trace()


async def test_tasks_keep_their_traces_apart():
    """Concurrent work does not mix."""
    both = asyncio.Barrier(2)

    async def work(trace):
        with under(trace):
            await both.wait()
            return current_trace()

    traces = [TraceContext.new(), TraceContext.new()]
    assert await asyncio.gather(*(work(trace) for trace in traces)) == traces
