"""Budgets read and set."""

from nanoclaw.runtime.v1 import runtime_pb2 as pb
from nanoclaw_broker import budgets
from nanoclaw_broker.budget import Line, Period
from nanoclaw_broker.facts import midnight_after
from nanoclaw_broker.granting import ADMIN, check_grantee
from nanoclaw_broker.policy import Limits
from nanoclaw_broker.tables import REQUESTS
from nanoclaw_core.errors import denied, invalid
from nanoclaw_core.principal import Caller
from nanoclaw_rpc import times
from nanoclaw_store import Database, Idempotency, Tx

MOST_CENTS = 10**11
MOST_REASON = 500


class Budgets:
    """What groups may spend. limits: the defaults."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._idempotency = Idempotency(database, REQUESTS)

    def get(self, group: str) -> pb.GetBudgetResponse:
        """Of a group; of all groups together where it is empty. Raises INVALID_FIELD."""
        if group:
            check_grantee("group", group)
        return self._database.read(lambda tx: self._read(tx, group))

    async def set(self, caller: Caller, request: pb.SetBudgetRequest, trace_id: str) -> pb.SetBudgetResponse:
        """Raises INVALID_FIELD, RAISE_NEEDS_ADMIN."""
        if request.group:
            check_grantee("group", request.group)
        period = _period(request)
        if not 0 <= request.limit_cents <= MOST_CENTS:
            raise invalid("limit_cents", f"must be 0 to {MOST_CENTS}", "choose a limit, or leave it out")
        if len(request.reason) > MOST_REASON:
            raise invalid("reason", f"is longer than {MOST_REASON} characters", "shorten it")
        references = {"reason": request.reason, "request_id": request.request_id, "trace_id": trace_id}

        def unit(tx: Tx) -> pb.SetBudgetResponse:
            if not caller.is_admin:
                self._check_lowers(tx, request, period)
            if period is not None:
                cents = request.limit_cents if request.HasField("limit_cents") else None
                budgets.set_limit(tx, request.group, period, cents, caller, **references)
            overrun = budgets.frozen(tx, request.group) if request.resume else None
            if overrun is not None:
                budgets.resume(tx, overrun, caller, **references)
            return pb.SetBudgetResponse(budget=self._read(tx, request.group))

        return await self._idempotency.run(caller.principal, request, unit)

    def _check_lowers(self, tx: Tx, request: pb.SetBudgetRequest, period: Period | None) -> None:
        """What an agent may do: spend less."""
        if request.resume:
            raise denied("RAISE_NEEDS_ADMIN", "only an admin lets a group spend again", ADMIN)
        lines = budgets.lines(tx, request.group, self._limits)
        now = next((one.limit_cents for one in lines if (one.group, one.period) == (request.group, period)), None)
        if not request.HasField("limit_cents") or (now is not None and request.limit_cents > now):
            raise denied("RAISE_NEEDS_ADMIN", "only an admin raises a budget", f"{ADMIN}, or lower it")

    def _read(self, tx: Tx, group: str) -> pb.GetBudgetResponse:
        overrun = budgets.frozen(tx, group)
        midnight = midnight_after(tx.now)
        return pb.GetBudgetResponse(
            lines=[_line(line, midnight) for line in budgets.lines(tx, group, self._limits)],
            frozen=overrun is not None,
            frozen_reason=overrun["reason"] if overrun is not None else "",
        )


def _period(request: pb.SetBudgetRequest) -> Period | None:
    """None where only `resume` is asked for."""
    name = pb.BudgetPeriod.Name(request.period) if request.period in pb.BudgetPeriod.values() else ""
    try:
        return Period(name.removeprefix("BUDGET_PERIOD_").lower())
    except ValueError:
        if request.resume and not request.period and not request.HasField("limit_cents"):
            return None
        known = ", ".join(f"BUDGET_PERIOD_{one.name}" for one in Period)
        raise invalid("period", "does not say what the limit is over", f"choose one of {known}") from None


def _line(line: Line, midnight: str) -> pb.BudgetLine:
    return pb.BudgetLine(
        group=line.group,
        period=pb.BudgetPeriod.Value(f"BUDGET_PERIOD_{line.period.name}"),
        limit_cents=line.limit_cents,
        reserved_micros=line.reserved_micros,
        spent_micros=line.spent_micros,
        left_micros=line.left_micros,
        resets_at=times.to_timestamp(midnight) if line.period is Period.DAY else None,
        is_default=line.is_default,
    )
