-- What groups may spend and have spent, and the circuit breakers of what providers reach.

CREATE TABLE ext_budgets (
    -- Empty: all groups together.
    group_name TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('step', 'day', 'total')),
    limit_cents INTEGER NOT NULL CHECK (limit_cents >= 0),
    -- 0: back to the default of the settings.
    is_set INTEGER NOT NULL CHECK (is_set IN (0, 1)),
    principal TEXT NOT NULL CHECK (principal <> ''),
    reason TEXT NOT NULL,
    set_at TEXT NOT NULL CHECK (length(set_at) = 27),
    PRIMARY KEY (group_name, period)
) STRICT;
CREATE TRIGGER ext_budgets_no_delete BEFORE DELETE ON ext_budgets
BEGIN
    SELECT RAISE(ABORT, 'a budget is changed, not deleted');
END;

-- Sums over ext_calls.cost_micros, kept so that a decision reads one row for each limit.
CREATE TABLE ext_spending (
    -- Empty: all groups together.
    group_name TEXT NOT NULL,
    -- YYYY-MM-DD of the claims (UTC); empty: for ever.
    day TEXT NOT NULL CHECK (length(day) IN (0, 10)),
    reserved_micros INTEGER NOT NULL CHECK (reserved_micros >= 0),
    spent_micros INTEGER NOT NULL CHECK (spent_micros >= 0),
    PRIMARY KEY (group_name, day)
) STRICT, WITHOUT ROWID;

-- A group whose call cost more than was reserved for it: it spends nothing more until an operator says so.
CREATE TABLE ext_overruns (
    group_name TEXT NOT NULL PRIMARY KEY CHECK (group_name <> ''),
    call_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    frozen_at TEXT NOT NULL CHECK (length(frozen_at) = 27),
    active INTEGER NOT NULL CHECK (active IN (0, 1))
) STRICT;
CREATE TRIGGER ext_overruns_no_delete BEFORE DELETE ON ext_overruns
BEGIN
    SELECT RAISE(ABORT, 'an overrun is lifted, not deleted');
END;

CREATE TABLE ext_breakers (
    -- A provider, or a provider and what it reaches, such as http:api.example.com:443.
    circuit TEXT NOT NULL PRIMARY KEY CHECK (circuit <> ''),
    -- JSON list of the last failures' times, oldest first.
    failures TEXT NOT NULL CHECK (failures GLOB '[[]*]'),
    -- Empty: closed.
    opened_at TEXT NOT NULL CHECK (length(opened_at) IN (0, 27)),
    -- The call that is let through half-open; empty: none.
    probe_call_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE ext_calls ADD COLUMN circuit TEXT NOT NULL DEFAULT '';
