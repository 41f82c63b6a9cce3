"""The main job as a stranger runs it: `nanoclaw demo`, and the one trace over all of it."""

import io
import json
from pathlib import Path

from rich.console import Console

from nanoclaw_cli.demo import demo
from nanoclaw_cli.stage import Processes


async def test_the_demo_ends_with_every_task_where_it_must_be_and_one_trace_over_all_services(
    short_home: Path, environ: dict[str, str]
) -> None:
    """Five tasks take their paths, the log verifies, the first one's trace holds four services and the agent; a second
    run over the same data finds the first one's tasks and log, and ends as well."""
    out = io.StringIO()
    assert await demo(Processes(short_home, environ), Console(file=out, width=250)), out.getvalue()
    text = out.getvalue()
    assert "chain whole, state equals the fold of the log" in text
    assert "refused: PRODUCT_KILLED" in text
    spans = [json.loads(line) for line in (short_home / "logs" / "traces.jsonl").read_text().splitlines()]
    created = [span for span in spans if span["name"] == "task.create"]
    assert len(created) == 4
    first = min(created, key=lambda span: span["start_ns"])
    trace = [span for span in spans if span["trace_id"] == first["trace_id"]]
    services = {span["service"].removeprefix("nanoclaw-").partition(":")[0] for span in trace}
    assert services >= {"governance", "dispatcher", "gateway", "broker", "agent"}
    known = {span["span_id"] for span in trace}
    orphans = [span["name"] for span in trace if span["parent_id"] and span["parent_id"] not in known]
    assert not orphans, "every span of the trace hangs from another of it"
    assert any("DONE" in span["attributes"].values() for span in trace)
    again = io.StringIO()
    assert await demo(Processes(short_home, environ), Console(file=again, width=250)), again.getvalue()
