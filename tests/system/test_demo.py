"""The main job as a stranger runs it: `nanoclaw demo`, and the one trace over all of it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nanoclaw_cli.demo import demo
from nanoclaw_cli.ending import Ending
from nanoclaw_cli.stage import Processes
from nanoclaw_rpc import Credentials


async def test_the_demo_ends_with_every_task_where_it_must_be_and_one_trace_over_all_services(
    short_home: Path, environ: dict[str, str]
) -> None:
    """Six tasks take their paths, the log verifies, the first one's trace holds four services and the agent."""
    out, reports = io.StringIO(), list[dict[str, Any]]()
    assert await demo(Processes(short_home, environ), Console(file=out, width=250), reports.append), out.getvalue()
    (report,) = reports
    assert (report["ok"], report["write"], report["log"]["findings"]) == (True, {"played": True, "findings": []}, [])
    assert [(task["path"] or [task["refusal"]])[-1] for task in report["tasks"]] == [
        *["DONE"] * 4, "PRODUCT_KILLED", "DONE",
    ]  # fmt: skip
    text = out.getvalue()
    assert "chain whole, state equals the fold of the log" in text
    assert "refused: PRODUCT_KILLED" in text
    spans = [json.loads(line) for line in (short_home / "logs" / "traces.jsonl").read_text().splitlines()]
    created = [span for span in spans if span["name"] == "task.create"]
    assert len(created) == 5
    first = min(created, key=lambda span: span["start_ns"])
    assert report["trace_id"] == first["trace_id"]
    trace = [span for span in spans if span["trace_id"] == first["trace_id"]]
    services = {span["service"].removeprefix("nanoclaw-").partition(":")[0] for span in trace}
    assert services >= {"governance", "dispatcher", "gateway", "broker", "agent"}
    known = {span["span_id"] for span in trace}
    orphans = [span["name"] for span in trace if span["parent_id"] and span["parent_id"] not in known]
    assert not orphans, "every span of the trace hangs from another of it"
    assert any("DONE" in span["attributes"].values() for span in trace)


@pytest.mark.system
async def test_the_write_of_the_demo_goes_out_once_after_two_votes_and_leaves_a_home_as_it_was(
    short_home: Path, environ: dict[str, str]
) -> None:
    """An operator's home keeps its providers, secrets and operators; three runs within a minute are no trouble, each
    over the last one's tasks and log."""
    providers = short_home / "config" / "providers.toml"
    providers.parent.mkdir()
    providers.write_text('[http.write."api.example.com"]\nbearer_secret = "orders_token"\n')
    before = providers.read_bytes()
    for _ in range(3):
        out = io.StringIO()
        assert await demo(Processes(short_home, environ), Console(file=out, width=250)), out.getvalue()
        text = out.getvalue()
        assert "http.post waits for votes; it would do:\n    POST http://127.0.0.1:" in text
        assert "EXECUTED with the votes of operator:founder and operator:demo-approver" in text
        assert providers.read_bytes() == before
        assert not list((short_home / "secrets" / "broker").iterdir())
        assert not list((short_home / "run").glob("*.toml"))
        assert Credentials.open(short_home / "secrets").find("operator:demo-approver") is None
        assert [path.name for path in (short_home / "secrets" / "operators").iterdir()] == ["founder.token"]
    out = io.StringIO()
    assert not await Ending().show(Processes(short_home, environ), [], None, Console(file=out, width=250))
    assert "chain whole" in out.getvalue()
    assert "write: nobody asked for the write" in out.getvalue(), "whatever else is right, without its write it failed"
