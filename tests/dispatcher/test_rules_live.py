"""The four rules, live: real governance, a real dispatcher, agents that act as the gateway lets them."""

from typing import Any


async def test_a_gated_task_goes_from_ready_to_done(world: Any) -> None:
    """Rules 1 and 2: the assigned group executes, the gate's group approves and finishes."""
    await world.dispatcher()
    await world.operator.ready("t1", gate="GATE_SECURITY")
    await world.at("t1", "DONE")
    await world.quiet()
    first, second = world.dispatches("t1")
    assert (first["rule"], first["group_name"], first["state"]) == (1, "developer", "DONE")
    assert (second["rule"], second["group_name"], second["state"]) == (2, "security", "DONE")
    assert [row["state"] for row in world.attempts()] == ["DONE", "DONE"]
    assert world.gateway.closed == [row["id"] for row in world.attempts()]
