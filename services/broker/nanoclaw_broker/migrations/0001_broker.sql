-- Capabilities, the effect ledger with its answers, counted refusals, the log and the granted requests.

CREATE TABLE ext_capabilities (
    id TEXT NOT NULL PRIMARY KEY,
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    provider TEXT NOT NULL CHECK (provider <> ''),
    product_id TEXT NOT NULL,
    access_level INTEGER NOT NULL CHECK (access_level BETWEEN 1 AND 3),
    allowed_actions TEXT NOT NULL CHECK (allowed_actions GLOB '[[]*]'),
    denied_actions TEXT NOT NULL CHECK (denied_actions GLOB '[[]*]'),
    requires_task_gate TEXT NOT NULL,
    granted_by TEXT NOT NULL CHECK (granted_by <> ''),
    granted_at TEXT NOT NULL CHECK (length(granted_at) = 27),
    expires_at TEXT NOT NULL CHECK (expires_at = '' OR length(expires_at) = 27),
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    changes INTEGER NOT NULL CHECK (changes >= 1),
    UNIQUE (group_name, provider, product_id),
    -- From L2 on a grant ends.
    CHECK (access_level = 1 OR expires_at <> '')
) STRICT;
CREATE TRIGGER ext_capabilities_no_delete BEFORE DELETE ON ext_capabilities
BEGIN
    SELECT RAISE(ABORT, 'a capability is revoked, not deleted');
END;

CREATE TABLE ext_calls (
    call_id TEXT NOT NULL PRIMARY KEY,
    request_id TEXT NOT NULL CHECK (request_id <> ''),
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    attempt_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    action TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('', 'pure', 'read', 'mutating')),
    level INTEGER NOT NULL CHECK (level BETWEEN 0 AND 3),
    state TEXT NOT NULL CHECK (
        state IN ('DENIED', 'PREPARED', 'SENT', 'EXECUTED', 'FAILED', 'TIMEOUT', 'UNKNOWN')
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
    -- Whatever was not refused was claimed, under a capability; whatever has ended has a code and an answer.
    CHECK ((state = 'DENIED') = (claim_number = 0)),
    CHECK (state = 'DENIED' OR (capability_id <> '' AND kind <> '' AND level > 0)),
    CHECK ((state IN ('PREPARED', 'SENT')) = (code = '')),
    CHECK ((state IN ('PREPARED', 'SENT')) = (answer_sha256 = '')),
    CHECK (state <> 'UNKNOWN' OR kind = 'mutating'),
    CHECK (state <> 'TIMEOUT' OR kind <> 'mutating')
) STRICT;
CREATE UNIQUE INDEX ext_calls_request ON ext_calls (group_name, request_id);
-- A refusal does not use a key up, nor does a call that was never sent.
CREATE UNIQUE INDEX ext_calls_key ON ext_calls (group_name, idempotency_key)
    WHERE idempotency_key <> '' AND state <> 'DENIED' AND code <> 'NEVER_SENT';
CREATE INDEX ext_calls_state ON ext_calls (state, group_name);
CREATE UNIQUE INDEX ext_calls_claim ON ext_calls (group_name, level, claim_number) WHERE claim_number > 0;
CREATE INDEX ext_calls_group ON ext_calls (group_name, call_id);
CREATE INDEX ext_calls_task ON ext_calls (task_id, call_id) WHERE task_id <> '';

CREATE TRIGGER ext_calls_no_delete BEFORE DELETE ON ext_calls
BEGIN
    SELECT RAISE(ABORT, 'the effect ledger keeps everything');
END;
CREATE TRIGGER ext_calls_fixed BEFORE UPDATE OF
    call_id, request_id, group_name, attempt_id, provider, action, kind, level, params_hmac, params_summary, task_id,
    product_id, scope, capability_id, idempotency_key, policy_version, trace_id, claim_number, claim_of_day, created_at
ON ext_calls
BEGIN
    SELECT RAISE(ABORT, 'only the end of a call is written after its claim');
END;
CREATE TRIGGER ext_calls_states BEFORE UPDATE ON ext_calls
WHEN NOT (
    (old.state = 'PREPARED' AND new.state IN ('SENT', 'FAILED'))
    OR (old.state = 'SENT' AND new.state IN ('EXECUTED', 'FAILED', 'TIMEOUT', 'UNKNOWN'))
)
BEGIN
    SELECT RAISE(ABORT, 'no such transition of a call');
END;

CREATE TABLE ext_answers (
    call_id TEXT NOT NULL PRIMARY KEY REFERENCES ext_calls (call_id),
    answer BLOB NOT NULL
) STRICT;
CREATE TRIGGER ext_answers_no_update BEFORE UPDATE ON ext_answers
BEGIN
    SELECT RAISE(ABORT, 'an answer stays as it was given');
END;
CREATE TRIGGER ext_answers_no_delete BEFORE DELETE ON ext_answers
BEGIN
    SELECT RAISE(ABORT, 'an answer stays as it was given');
END;

CREATE TABLE ext_refusals (
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    code TEXT NOT NULL CHECK (code <> ''),
    minute TEXT NOT NULL CHECK (length(minute) = 16),
    count INTEGER NOT NULL CHECK (count >= 1),
    last_at TEXT NOT NULL CHECK (length(last_at) = 27),
    PRIMARY KEY (group_name, code, minute)
) STRICT, WITHOUT ROWID;

CREATE TABLE ext_activities (
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
CREATE TRIGGER ext_activities_no_update BEFORE UPDATE ON ext_activities
BEGIN
    SELECT RAISE(ABORT, 'ext_activities is append-only');
END;
CREATE TRIGGER ext_activities_no_delete BEFORE DELETE ON ext_activities
BEGIN
    SELECT RAISE(ABORT, 'ext_activities is append-only');
END;

CREATE TABLE ext_requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    rpc TEXT NOT NULL,
    body_digest TEXT NOT NULL CHECK (length(body_digest) = 64),
    response BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;

