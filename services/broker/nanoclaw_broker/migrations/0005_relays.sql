-- Model relays of attempts; and the lane that a call came by, in each of which claims are counted apart.
ALTER TABLE ext_calls ADD COLUMN lane TEXT NOT NULL DEFAULT '' CHECK (lane IN ('', 'relay'));
DROP INDEX ext_calls_claim;
CREATE UNIQUE INDEX ext_calls_claim ON ext_calls (group_name, level, lane, claim_number) WHERE claim_number > 0;
CREATE TRIGGER ext_calls_lane_fixed BEFORE UPDATE OF lane ON ext_calls
BEGIN
    SELECT RAISE(ABORT, 'only the end of a call is written after its claim');
END;

CREATE TABLE ext_relays (
    attempt_id TEXT NOT NULL PRIMARY KEY CHECK (attempt_id <> ''),
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    task_id TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'CLOSED')),
    opened_at TEXT NOT NULL CHECK (length(opened_at) = 27),
    closed_at TEXT NOT NULL,
    CHECK ((state = 'OPEN') = (closed_at = ''))
) STRICT, WITHOUT ROWID;
CREATE INDEX ext_relays_open ON ext_relays (attempt_id) WHERE state = 'OPEN';
CREATE TRIGGER ext_relays_no_delete BEFORE DELETE ON ext_relays
BEGIN
    SELECT RAISE(ABORT, 'a relay is closed, not deleted');
END;
CREATE TRIGGER ext_relays_states BEFORE UPDATE ON ext_relays
WHEN NOT (old.state = 'OPEN' AND new.state = 'CLOSED')
BEGIN
    SELECT RAISE(ABORT, 'a closed relay is never opened again');
END;
