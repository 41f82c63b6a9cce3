-- The kernel's slice: products, tasks, approvals, bound attempts, the log, and the requests that were granted.
-- Texts are empty, not NULL, where there is nothing; flags are 0 or 1; lists and objects are JSON.

CREATE TABLE products (
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    name TEXT NOT NULL UNIQUE CHECK (name <> ''),
    description TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('ACTIVE', 'PAUSED', 'KILLED')),
    risk TEXT NOT NULL CHECK (risk IN ('LOW', 'NORMAL', 'HIGH')),
    version INTEGER NOT NULL CHECK (version >= 1),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE gov_tasks (
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    title TEXT NOT NULL CHECK (title <> ''),
    description TEXT NOT NULL,
    task_type TEXT NOT NULL CHECK (task_type IN (
        'EPIC', 'FEATURE', 'BUG', 'SECURITY', 'REVOPS', 'OPS', 'RESEARCH', 'CONTENT', 'DOC', 'INCIDENT')),
    state TEXT NOT NULL CHECK (state IN (
        'INBOX', 'TRIAGED', 'READY', 'DOING', 'REVIEW', 'APPROVAL', 'DONE', 'BLOCKED')),
    priority TEXT NOT NULL CHECK (priority IN ('P0', 'P1', 'P2', 'P3')),
    product_id TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('COMPANY', 'PRODUCT')),
    assigned_group TEXT NOT NULL,
    executor TEXT NOT NULL,
    gate TEXT NOT NULL CHECK (gate IN ('NONE', 'SECURITY', 'REVOPS', 'CLAIMS', 'PRODUCT')),
    human_gate INTEGER NOT NULL CHECK (human_gate IN (0, 1)),
    risk TEXT NOT NULL CHECK (risk IN ('LOW', 'NORMAL', 'HIGH')),
    version INTEGER NOT NULL CHECK (version >= 1),
    round INTEGER NOT NULL CHECK (round >= 0),
    rework_count INTEGER NOT NULL CHECK (rework_count >= 0),
    previous_state TEXT NOT NULL,
    state_reason TEXT NOT NULL,
    review_summary TEXT NOT NULL,
    checklist TEXT NOT NULL,
    evidence_required INTEGER CHECK (evidence_required IN (0, 1)),
    docs_updated INTEGER NOT NULL CHECK (docs_updated IN (0, 1)),
    evidence TEXT NOT NULL,
    blocked_from TEXT NOT NULL,
    blocked_by TEXT NOT NULL,
    override TEXT NOT NULL,
    executors TEXT NOT NULL,
    metadata TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    policy_version TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    CHECK ((scope = 'PRODUCT') = (product_id <> '')),
    CHECK ((state = 'BLOCKED') = (blocked_from <> '') AND (state = 'BLOCKED') = (blocked_by <> '')),
    CHECK (state NOT IN ('DOING', 'REVIEW', 'APPROVAL', 'DONE') OR assigned_group <> '')
) STRICT;

CREATE INDEX gov_tasks_by_state ON gov_tasks (state, updated_at, id);
CREATE INDEX gov_tasks_by_group ON gov_tasks (assigned_group, state, updated_at, id) WHERE assigned_group <> '';
CREATE INDEX gov_tasks_by_product ON gov_tasks (product_id, updated_at, id) WHERE product_id <> '';
CREATE INDEX gov_tasks_by_gate ON gov_tasks (gate, updated_at, id) WHERE gate <> 'NONE';

CREATE TRIGGER gov_tasks_done_is_final BEFORE UPDATE ON gov_tasks WHEN OLD.state = 'DONE'
BEGIN
    SELECT RAISE(ABORT, 'a task that is done does not change');
END;
CREATE TRIGGER gov_tasks_versions_rise BEFORE UPDATE ON gov_tasks WHEN NEW.version <> OLD.version + 1
BEGIN
    SELECT RAISE(ABORT, 'a change of a task raises its version by one');
END;

CREATE TABLE gov_approvals (
    id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
    task_id TEXT NOT NULL REFERENCES gov_tasks (id),
    gate TEXT NOT NULL CHECK (gate IN ('SECURITY', 'REVOPS', 'CLAIMS', 'PRODUCT')),
    approved_by TEXT NOT NULL CHECK (approved_by <> ''),
    notes TEXT NOT NULL,
    round INTEGER NOT NULL,
    task_version INTEGER NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    created_at TEXT NOT NULL,
    voided_at TEXT NOT NULL,
    void_reason TEXT NOT NULL,
    CHECK ((voided_at = '') = (void_reason = ''))
) STRICT;

CREATE UNIQUE INDEX gov_approvals_live ON gov_approvals (task_id, gate) WHERE voided_at = '';
CREATE INDEX gov_approvals_by_task ON gov_approvals (task_id, id);

CREATE TRIGGER gov_approvals_stay_void BEFORE UPDATE ON gov_approvals WHEN OLD.voided_at <> ''
BEGIN
    SELECT RAISE(ABORT, 'an approval that is void stays void');
END;
CREATE TRIGGER gov_approvals_stay BEFORE DELETE ON gov_approvals
BEGIN
    SELECT RAISE(ABORT, 'the rows of approvals stay');
END;

CREATE TABLE gov_attempts (
    task_id TEXT NOT NULL REFERENCES gov_tasks (id),
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    attempt_id TEXT NOT NULL CHECK (attempt_id <> ''),
    fence INTEGER NOT NULL,
    PRIMARY KEY (task_id, group_name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER gov_attempts_fences_rise BEFORE UPDATE ON gov_attempts WHEN NEW.fence <= OLD.fence
BEGIN
    SELECT RAISE(ABORT, 'a fence only ever rises');
END;

CREATE TABLE gov_activities (
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
CREATE TRIGGER gov_activities_no_update BEFORE UPDATE ON gov_activities
BEGIN
    SELECT RAISE(ABORT, 'gov_activities is append-only');
END;
CREATE TRIGGER gov_activities_no_delete BEFORE DELETE ON gov_activities
BEGIN
    SELECT RAISE(ABORT, 'gov_activities is append-only');
END;

CREATE INDEX gov_activities_by_task ON gov_activities (task_id);
CREATE INDEX gov_activities_of_groups ON gov_activities (principal, action, created_at)
    WHERE principal GLOB 'group:*';

CREATE TABLE gov_requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    rpc TEXT NOT NULL,
    body_digest TEXT NOT NULL CHECK (length(body_digest) = 64),
    response BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;
