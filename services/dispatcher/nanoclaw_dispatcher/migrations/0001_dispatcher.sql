CREATE TABLE gov_dispatches (
    id TEXT PRIMARY KEY NOT NULL,
    dispatch_key TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    group_name TEXT NOT NULL,
    rule INTEGER NOT NULL CHECK (rule IN (1, 2, 4)),
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    task_version INTEGER NOT NULL CHECK (task_version >= 1),
    seen_version INTEGER NOT NULL CHECK (seen_version >= task_version),
    round INTEGER NOT NULL CHECK (round >= 0),
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 3),
    because TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ENQUEUED', 'STARTED', 'DONE', 'FAILED', 'CANCELLED')),
    code TEXT NOT NULL CHECK (code IN ('', 'CLAIM_REFUSED', 'WITHDRAWN', 'CANCELLED', 'EXHAUSTED')),
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    failures INTEGER NOT NULL CHECK (failures BETWEEN 0 AND attempts),
    not_before TEXT NOT NULL CHECK (length(not_before) IN (0, 27)),
    cancelled_by TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    updated_at TEXT NOT NULL CHECK (length(updated_at) = 27)
) STRICT;
CREATE INDEX gov_dispatches_by_task ON gov_dispatches (task_id, task_version);
CREATE INDEX gov_dispatches_open ON gov_dispatches (id) WHERE state IN ('ENQUEUED', 'STARTED');
CREATE TRIGGER gov_dispatches_no_delete BEFORE DELETE ON gov_dispatches
BEGIN
    SELECT RAISE(ABORT, 'a dispatch is never deleted');
END;

CREATE TABLE dispatch_attempts (
    fence INTEGER PRIMARY KEY NOT NULL,
    id TEXT NOT NULL UNIQUE,
    dispatch_id TEXT NOT NULL REFERENCES gov_dispatches (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    task_id TEXT NOT NULL,
    group_name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ENQUEUED', 'STARTED', 'DONE', 'FAILED', 'LOST')),
    exit_code INTEGER,
    outcome TEXT NOT NULL,
    last_lines TEXT NOT NULL,
    mailbox TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    started_at TEXT NOT NULL CHECK (length(started_at) IN (0, 27)),
    ended_at TEXT NOT NULL CHECK (length(ended_at) IN (0, 27)),
    CHECK ((ended_at = '') = (state IN ('ENQUEUED', 'STARTED')))
) STRICT;
CREATE INDEX dispatch_attempts_by_dispatch ON dispatch_attempts (dispatch_id, number);
-- At most one attempt per task and group is alive, whatever the code above believes.
CREATE UNIQUE INDEX dispatch_attempts_one_live ON dispatch_attempts (task_id, group_name)
    WHERE state IN ('ENQUEUED', 'STARTED');
CREATE TRIGGER dispatch_attempts_no_delete BEFORE DELETE ON dispatch_attempts
BEGIN
    SELECT RAISE(ABORT, 'an attempt is never deleted');
END;
-- A fence is used once, and what has ended stays ended.
CREATE TRIGGER dispatch_attempts_final BEFORE UPDATE ON dispatch_attempts
    WHEN OLD.state NOT IN ('ENQUEUED', 'STARTED') OR NEW.fence <> OLD.fence OR NEW.id <> OLD.id
BEGIN
    SELECT RAISE(ABORT, 'an attempt that has ended does not change');
END;

CREATE TABLE dispatch_leases (
    dispatch_id TEXT PRIMARY KEY NOT NULL,
    owner TEXT NOT NULL,
    until TEXT NOT NULL CHECK (length(until) = 27)
) STRICT;

CREATE TABLE dispatch_notices (
    task_id TEXT PRIMARY KEY NOT NULL,
    notice TEXT NOT NULL,
    ref TEXT NOT NULL
) STRICT;

CREATE TABLE dispatch_sessions (
    group_name TEXT PRIMARY KEY NOT NULL,
    session_id TEXT NOT NULL,
    attempt_id TEXT NOT NULL
) STRICT;

CREATE TABLE dispatch_cursors (
    name TEXT PRIMARY KEY NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    saved_at TEXT NOT NULL
) STRICT;

CREATE TABLE dispatch_activities (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    epoch INTEGER NOT NULL CHECK (epoch >= 1),
    task_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action <> ''),
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    principal TEXT NOT NULL CHECK (principal <> ''),
    via TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    change TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    request_ref TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    prev_hash TEXT NOT NULL UNIQUE CHECK (length(prev_hash) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64)
) STRICT;
CREATE TRIGGER dispatch_activities_no_update BEFORE UPDATE ON dispatch_activities
BEGIN
    SELECT RAISE(ABORT, 'dispatch_activities is append-only');
END;
CREATE TRIGGER dispatch_activities_no_delete BEFORE DELETE ON dispatch_activities
BEGIN
    SELECT RAISE(ABORT, 'dispatch_activities is append-only');
END;

CREATE TABLE dispatch_requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    rpc TEXT NOT NULL,
    body_digest TEXT NOT NULL CHECK (length(body_digest) = 64),
    response BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;
