"""How a demo ended: each task's path, the write, the log, the first task's trace, and whether all is as it must be."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    row of the write to the outside world.
    """

    paths: dict[str, list[str]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    write: broker.CallRecord | None = None

    async def show(self, stage: Stage, stories: Sequence[Story], first: pb.Task | None, console: Console) -> bool:
        """Shows it all; answers whether all is as it must be. first: the task whose trace is shown."""
        right = self._show_paths(stories, console)
        wrong = self._show_write(stage, console)
        verdict = await stage.verdict()
        console.print(
            f"[red]log broken: {verdict.findings[:3]}"
            if verdict.findings
            else f"log: {verdict.rows} rows, chain whole, state equals the fold of the log"
        )
        if first is not None:
            stage.show_trace(console, first, first.traceparent.split("-")[1] if first.traceparent else "")
            console.print("go on", style="bold")
            for command, what in stage.go_on(first.id):
                console.print(f"    {command}  # {what}", markup=False, soft_wrap=True)
        return right and not wrong and not verdict.findings

    def _show_paths(self, stories: Sequence[Story], console: Console) -> bool:
        console.print("what happened", style="bold")
        right = []
        for story in stories:
            path = self.paths.get(story.request.id, [])
            refusal = self.refusals.get(story.request.id, "")
            right.append(refusal == story.refusal and tuple(path) == story.states)
            verdict = Text("as it must be", "green") if right[-1] else Text("not as it must be", "bold red")
            console.print(Text.assemble((story.request.id, "bold"), f"  {story.name}: ", verdict), soft_wrap=True)
            console.print(Padding(Text(" → ".join(path) or f"refused: {refusal}", "dim"), (0, 0, 0, 4)))
        return all(right)

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
