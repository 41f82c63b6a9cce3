-- Votes on L3 calls, freezes, what became of UNKNOWN calls, and the parameters that are kept until a call is settled.

-- SQLite can't change a CHECK, so the ledger is copied into a table with the new states and columns. Nothing is lost:
-- the copy runs in the transaction of the migration.
CREATE TABLE new_ext_calls (
    call_id TEXT NOT NULL PRIMARY KEY,
    request_id TEXT NOT NULL CHECK (request_id <> ''),
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    attempt_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    action TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('', 'pure', 'read', 'mutating')),
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 3),
    state TEXT NOT NULL CHECK (
        state IN (
            'DENIED', 'AWAITING_APPROVAL', 'EXPIRED', 'REJECTED', 'PREPARED', 'SENT', 'EXECUTED', 'FAILED', 'TIMEOUT',
            'UNKNOWN', 'RECONCILED', 'COMPENSATED', 'ABANDONED'
        )
    ),
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    params_hmac TEXT NOT NULL CHECK (length(params_hmac) = 64),
    params_summary TEXT NOT NULL,
    result_summary TEXT NOT NULL,
    answer_sha256 TEXT NOT NULL CHECK (length(answer_sha256) IN (0, 64)),
    task_id TEXT NOT NULL,
    product_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    capability_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    policy_version TEXT NOT NULL CHECK (policy_version <> ''),
    trace_id TEXT NOT NULL,
    claim_number INTEGER NOT NULL CHECK (claim_number >= 0),
    claim_of_day INTEGER NOT NULL CHECK (claim_of_day >= 0),
    duration_ms INTEGER NOT NULL CHECK (duration_ms >= 0),
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    updated_at TEXT NOT NULL CHECK (length(updated_at) = 27),
    unknown_ends_by TEXT NOT NULL DEFAULT '' CHECK (
        unknown_ends_by IN ('', 'provider_key', 'verify', 'compensate', 'harmless', 'none')
    ),
    -- What it may cost while it is under way, what it did cost afterwards.
    cost_micros INTEGER NOT NULL DEFAULT 0 CHECK (cost_micros >= 0),
    -- Whatever was not refused was claimed, under a capability; whatever has ended has a code and an answer.
    CHECK ((state = 'DENIED') = (claim_number = 0)),
    CHECK (state = 'DENIED' OR (capability_id <> '' AND kind <> '' AND level > 0)),
    CHECK ((state IN ('AWAITING_APPROVAL', 'PREPARED', 'SENT')) = (code = '')),
    CHECK ((state IN ('AWAITING_APPROVAL', 'PREPARED', 'SENT')) = (answer_sha256 = '')),
    CHECK (state NOT IN ('UNKNOWN', 'RECONCILED', 'COMPENSATED', 'ABANDONED') OR kind = 'mutating'),
    CHECK (state NOT IN ('AWAITING_APPROVAL', 'EXPIRED', 'REJECTED') OR level = 3),
    CHECK (state <> 'TIMEOUT' OR kind <> 'mutating')
) STRICT;
INSERT INTO new_ext_calls (
    call_id, request_id, group_name, attempt_id, provider, action, kind, level, state, code, reason, params_hmac,
    params_summary, result_summary, answer_sha256, task_id, product_id, scope, capability_id, idempotency_key,
    policy_version, trace_id, claim_number, claim_of_day, duration_ms, created_at, updated_at
) SELECT
    call_id, request_id, group_name, attempt_id, provider, action, kind, level, state, code, reason, params_hmac,
    params_summary, result_summary, answer_sha256, task_id, product_id, scope, capability_id, idempotency_key,
    policy_version, trace_id, claim_number, claim_of_day, duration_ms, created_at, updated_at
FROM ext_calls;

CREATE TABLE new_ext_answers (
    call_id TEXT NOT NULL,
    -- 'end': how the call ended. 'settlement': what is answered since it was cleared up.
    given TEXT NOT NULL CHECK (given IN ('end', 'settlement')),
    answer BLOB NOT NULL,
    PRIMARY KEY (call_id, given)
) STRICT;
INSERT INTO new_ext_answers (call_id, given, answer) SELECT call_id, 'end', answer FROM ext_answers;
DROP TABLE ext_answers;
DROP TABLE ext_calls;
ALTER TABLE new_ext_calls RENAME TO ext_calls;
ALTER TABLE new_ext_answers RENAME TO ext_answers;
CREATE UNIQUE INDEX ext_calls_request ON ext_calls (group_name, request_id);
-- A refusal does not use a key up, nor does a call that was never sent.
CREATE UNIQUE INDEX ext_calls_key ON ext_calls (group_name, idempotency_key)
    WHERE idempotency_key <> '' AND state <> 'DENIED' AND code <> 'NEVER_SENT';
CREATE INDEX ext_calls_state ON ext_calls (state, group_name);
CREATE UNIQUE INDEX ext_calls_claim ON ext_calls (group_name, level, claim_number) WHERE claim_number > 0;
CREATE INDEX ext_calls_group ON ext_calls (group_name, call_id);
CREATE INDEX ext_calls_task ON ext_calls (task_id, call_id) WHERE task_id <> '';
-- What the reconciler looks through, oldest first.
CREATE INDEX ext_calls_unknown ON ext_calls (call_id) WHERE state = 'UNKNOWN';

CREATE TRIGGER ext_calls_no_delete BEFORE DELETE ON ext_calls
BEGIN
    SELECT RAISE(ABORT, 'the effect ledger keeps everything');
END;
CREATE TRIGGER ext_calls_fixed BEFORE UPDATE OF
    call_id, request_id, group_name, attempt_id, provider, action, kind, level, params_hmac, params_summary, task_id,
    product_id, scope, capability_id, idempotency_key, policy_version, trace_id, claim_number, claim_of_day, created_at,
    unknown_ends_by
ON ext_calls
BEGIN
    SELECT RAISE(ABORT, 'only the end of a call is written after its claim');
END;
CREATE TRIGGER ext_calls_states BEFORE UPDATE ON ext_calls
WHEN NOT (
    (old.state = 'AWAITING_APPROVAL' AND new.state IN ('PREPARED', 'EXPIRED', 'REJECTED'))
    OR (old.state = 'PREPARED' AND new.state IN ('SENT', 'FAILED'))
    OR (old.state = 'SENT' AND new.state IN ('EXECUTED', 'FAILED', 'TIMEOUT', 'UNKNOWN'))
    OR (old.state = 'UNKNOWN' AND new.state IN ('RECONCILED', 'COMPENSATED', 'ABANDONED'))
)
BEGIN
    SELECT RAISE(ABORT, 'no such transition of a call');
END;
CREATE TRIGGER ext_answers_no_update BEFORE UPDATE ON ext_answers
BEGIN
    SELECT RAISE(ABORT, 'an answer stays as it was given');
END;
CREATE TRIGGER ext_answers_no_delete BEFORE DELETE ON ext_answers
BEGIN
    SELECT RAISE(ABORT, 'an answer stays as it was given');
END;

-- Canonical parameters, encrypted under the broker's key, of calls that may have to be sent, sent again, looked for or
-- undone later; gone when the call is settled.
CREATE TABLE ext_params (
    call_id TEXT NOT NULL PRIMARY KEY,
    ciphertext BLOB NOT NULL
) STRICT;

-- What an L3 call was asked under; it is void when any of it has moved.
CREATE TABLE ext_pending (
    call_id TEXT NOT NULL PRIMARY KEY,
    params_digest TEXT NOT NULL CHECK (length(params_digest) = 64),
    task_version INTEGER NOT NULL CHECK (task_version >= 1),
    capability_changes INTEGER NOT NULL CHECK (capability_changes >= 1),
    expires_at TEXT NOT NULL CHECK (length(expires_at) = 27)
) STRICT;
CREATE TRIGGER ext_pending_no_update BEFORE UPDATE ON ext_pending
BEGIN
    SELECT RAISE(ABORT, 'what was asked for stays as it was asked');
END;
CREATE TRIGGER ext_pending_no_delete BEFORE DELETE ON ext_pending
BEGIN
    SELECT RAISE(ABORT, 'what was asked for stays as it was asked');
END;

CREATE TABLE ext_votes (
    call_id TEXT NOT NULL,
    principal TEXT NOT NULL CHECK (principal <> ''),
    -- The group that it speaks for; an operator speaks for nobody but itself, and its principal stands here.
    party TEXT NOT NULL CHECK (party <> ''),
    approve INTEGER NOT NULL CHECK (approve IN (0, 1)),
    params_digest TEXT NOT NULL CHECK (length(params_digest) = 64),
    notes TEXT NOT NULL,
    via TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    voted_at TEXT NOT NULL CHECK (length(voted_at) = 27),
    PRIMARY KEY (call_id, principal),
    UNIQUE (call_id, party)
) STRICT;
CREATE TRIGGER ext_votes_no_update BEFORE UPDATE ON ext_votes
BEGIN
    SELECT RAISE(ABORT, 'a vote stays as it was cast');
END;
CREATE TRIGGER ext_votes_no_delete BEFORE DELETE ON ext_votes
BEGIN
    SELECT RAISE(ABORT, 'a vote stays as it was cast');
END;

CREATE TABLE ext_freezes (
    -- 'all', 'group' with its name, 'provider' with its name.
    scope TEXT NOT NULL CHECK (scope IN ('all', 'group', 'provider')),
    name TEXT NOT NULL,
    max_level INTEGER NOT NULL CHECK (max_level BETWEEN 0 AND 2),
    reason TEXT NOT NULL CHECK (reason <> ''),
    principal TEXT NOT NULL CHECK (principal <> ''),
    frozen_at TEXT NOT NULL CHECK (length(frozen_at) = 27),
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    PRIMARY KEY (scope, name),
    CHECK ((scope = 'all') = (name = ''))
) STRICT;
CREATE TRIGGER ext_freezes_no_delete BEFORE DELETE ON ext_freezes
BEGIN
    SELECT RAISE(ABORT, 'a freeze is lifted, not deleted');
END;

CREATE TABLE ext_settlements (
    call_id TEXT NOT NULL PRIMARY KEY,
    outcome TEXT NOT NULL CHECK (outcome IN ('HAPPENED', 'DID_NOT_HAPPEN', 'UNDONE', 'GIVEN_UP')),
    principal TEXT NOT NULL CHECK (principal <> ''),
    note TEXT NOT NULL,
    answer_sha256 TEXT NOT NULL CHECK (length(answer_sha256) = 64),
    settled_at TEXT NOT NULL CHECK (length(settled_at) = 27)
) STRICT;
CREATE TRIGGER ext_settlements_no_update BEFORE UPDATE ON ext_settlements
BEGIN
    SELECT RAISE(ABORT, 'what became of a call is said once');
END;
CREATE TRIGGER ext_settlements_no_delete BEFORE DELETE ON ext_settlements
BEGIN
    SELECT RAISE(ABORT, 'what became of a call is said once');
END;

ALTER TABLE ext_capabilities ADD COLUMN allow_unverified INTEGER NOT NULL DEFAULT 0 CHECK (allow_unverified IN (0, 1));
