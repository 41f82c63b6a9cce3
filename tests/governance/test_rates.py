"""Rates of groups are counted in the log, exactly."""

from nanoclaw_rpc.status import to_status


async def test_a_group_moves_tasks_so_often_a_minute(kernel, people, clock, refused) -> None:
    """30 facts a minute, not 31; refusals do not count, and a minute later it goes on."""
    task = await kernel.at("DOING")
    for _ in range(15):
        await kernel.move(people.developer, task, "BLOCKED")
        await kernel.move(people.developer, task, "DOING")
    with refused("RATE_LIMITED") as caught:
        await kernel.move(people.developer, task, "BLOCKED")
    kinds = [detail.type_url.rpartition(".")[2] for detail in to_status(caught.error).details]
    assert "RetryInfo" in kinds, "where gRPC clients look for when to come back"
    assert kernel.get(task).state == "DOING"
    await kernel.move(people.main, task, "BLOCKED")
    clock.advance(61)
    with refused("NOT_PERMITTED"):
        await kernel.move(people.developer, task, "DOING")
    await kernel.move(people.main, task, "DOING")
    assert (await kernel.move(people.developer, task, "BLOCKED")).state == "BLOCKED"


async def test_main_moves_twice_as_often(kernel, people, refused) -> None:
    """60 a minute."""
    task = await kernel.at("DOING")
    for _ in range(30):
        await kernel.move(people.main, task, "BLOCKED")
        await kernel.move(people.main, task, "DOING")
    with refused("RATE_LIMITED"):
        await kernel.move(people.main, task, "BLOCKED")


async def test_the_window_slides(kernel, people, clock, refused) -> None:
    """It is the last sixty seconds that count, not a calendar minute."""
    task = await kernel.at("DOING")
    for _ in range(15):
        await kernel.move(people.developer, task, "BLOCKED")
        await kernel.move(people.developer, task, "DOING")
        clock.advance(2)
    clock.advance(29)
    with refused("RATE_LIMITED"):
        await kernel.move(people.developer, task, "BLOCKED")
    clock.advance(2)
    await kernel.move(people.developer, task, "BLOCKED")


async def test_approvals_have_a_rate_of_their_own(kernel, people, refused) -> None:
    """20 a minute for others than main; operators have none."""
    tasks = [await kernel.at("REVIEW", gate="SECURITY", assigned_group=f"dev{number}") for number in range(22)]
    for task in tasks[:20]:
        await kernel.approve(people.security, task)
    with refused("RATE_LIMITED"):
        await kernel.approve(people.security, tasks[20])
    await kernel.approve(people.main, tasks[20])
    await kernel.approve(people.admin, tasks[21])


async def test_no_ops_and_persons_are_not_counted(kernel, people) -> None:
    """What leaves no fact costs nothing; people and the dispatcher have no rate."""
    task = await kernel.at("DOING")
    for _ in range(40):
        await kernel.move(people.developer, task, "DOING")
    for _ in range(40):
        await kernel.move(people.admin, task, "BLOCKED")
        await kernel.move(people.admin, task, "DOING")
    await kernel.move(people.developer, task, "BLOCKED")
