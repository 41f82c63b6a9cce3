"""How a demo ended: each task's path, the write, the log, the first task's trace, and whether all is as it must be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from nanoclaw.broker.v1 import broker_pb2 as broker
from nanoclaw.governance.v1 import governance_pb2 as pb
from nanoclaw_cli.scenario import Story
from nanoclaw_cli.stage import Stage
from nanoclaw_cli.words import CALL_STATES


@dataclass
class Ending:
    """paths: the states that each task went through, by its id. refusals: why one was not taken. write: the ledger's
    row of the write to the outside world. report: all of it for programs, once it was shown.
    """

    paths: dict[str, list[str]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    write: broker.CallRecord | None = None
    report: dict[str, Any] = field(default_factory=dict)

    async def show(self, stage: Stage, stories: Sequence[Story], first: pb.Task | None, console: Console) -> bool:
        """Shows it all; answers whether all is as it must be. first: the task whose trace is shown."""
        tasks = [self._judged(story) for story in stories]
        self._show_paths(tasks, console)
        wrong = self._show_write(stage, console)
        verdict = await stage.verdict()
        console.print(
            f"[red]log broken: {verdict.findings[:3]}"
            if verdict.findings
            else f"log: {verdict.rows} rows, chain whole, state equals the fold of the log"
        )
        trace_id, then = "", list[tuple[str, str]]()
        if first is not None:
            trace_id, then = first.traceparent.split("-")[1] if first.traceparent else "", stage.go_on(first.id)
            stage.show_trace(console, first, trace_id)
            console.print("go on", style="bold")
            for command, what in then:
                console.print(f"    {command}  # {what}", markup=False, soft_wrap=True)
        ok = all(task["as_it_must_be"] for task in tasks) and not wrong and not verdict.findings
        self.report = {
            "ok": ok,
            "tasks": tasks,
            "write": {"played": stage.announcement is not None, "findings": wrong},
            "log": {"rows": verdict.rows, "findings": verdict.findings},
            "trace_id": trace_id,
            "go_on": [command for command, _ in then],
        }
        return ok

    def _judged(self, story: Story) -> dict[str, Any]:
        path, refusal = self.paths.get(story.request.id, []), self.refusals.get(story.request.id, "")
        right = refusal == story.refusal and tuple(path) == story.states
        return {"id": story.request.id, "name": story.name, "path": path, "refusal": refusal, "as_it_must_be": right}

    def _show_paths(self, tasks: Sequence[dict[str, Any]], console: Console) -> None:
        console.print("what happened", style="bold")
        for task in tasks:
            right = Text("as it must be", "green") if task["as_it_must_be"] else Text("not as it must be", "bold red")
            console.print(Text.assemble((task["id"], "bold"), f"  {task['name']}: ", right), soft_wrap=True)
            console.print(Padding(Text(" → ".join(task["path"]) or f"refused: {task['refusal']}", "dim"), (0, 0, 0, 4)))

    def _show_write(self, stage: Stage, console: Console) -> list[str]:
        """What is not as it must be of the write; nothing where it is not played."""
        if stage.announcement is None:
            return []
        wrong = stage.announcement.findings(self.write)
        for finding in wrong:
            console.print(f"write: {finding}", style="red", markup=False)
        if not wrong and self.write is not None:
            votes = " and ".join(vote.principal for vote in self.write.votes)
            console.print(
                f"write: {self.write.params_summary} arrived once, with a token that no agent held; "
                f"{CALL_STATES.word(self.write.state)} with the votes of {votes}",
                markup=False,
            )
        return wrong
