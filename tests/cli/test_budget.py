"""`nanoclaw budget`: cents and words in, a table or JSON out."""

from typing import Any

from nanoclaw.runtime.v1 import runtime_pb2 as pb

LINE = pb.BudgetLine(
    group="developer",
    period=pb.BUDGET_PERIOD_DAY,
    limit_cents=500,
    reserved_micros=100_000,
    spent_micros=25_000,
    left_micros=4_875_000,
)


async def test_a_budget_is_shown_in_cents(nanoclaw: Any, far_side: Any) -> None:
    """With what is left; `all` is all groups together; a freeze says what ends it."""
    far_side.answers["GetBudget"] = pb.GetBudgetResponse(lines=[LINE], frozen=True, frozen_reason="a call cost more")
    ran = await nanoclaw("budget", "show", "all")
    assert far_side.requests("GetBudget")[0].group == ""
    for shown in ("developer", "day", "500", "10.00", "2.50", "487.50", "nanoclaw budget resume"):
        assert shown in ran.out
    assert (await nanoclaw("budget", "show", "developer", "--json")).json["lines"][0]["limit_cents"] == "500"


async def test_a_limit_is_set_and_left_out_goes_back_to_the_default(nanoclaw: Any, far_side: Any) -> None:
    """0 is a limit, nothing is none."""
    far_side.answers["SetBudget"] = pb.SetBudgetResponse(budget=pb.GetBudgetResponse(lines=[LINE]))
    await nanoclaw("budget", "set", "developer", "day", "0", "-r", "stop")
    await nanoclaw("budget", "set", "all", "total")
    await nanoclaw("budget", "resume", "developer")
    none, default, resumed = far_side.requests("SetBudget")
    assert (none.group, none.period, none.limit_cents, none.HasField("limit_cents"), none.reason) == (
        "developer",
        pb.BUDGET_PERIOD_DAY,
        0,
        True,
        "stop",
    )
    assert (default.group, default.period, default.HasField("limit_cents")) == ("", pb.BUDGET_PERIOD_TOTAL, False)
    assert resumed.resume


async def test_a_period_that_there_is_not_is_wrong_usage(nanoclaw: Any, far_side: Any) -> None:
    """With those that there are."""
    ran = await nanoclaw("budget", "set", "developer", "week", "5")
    assert (ran.code, "step, day, total" in ran.err) == (2, True)
