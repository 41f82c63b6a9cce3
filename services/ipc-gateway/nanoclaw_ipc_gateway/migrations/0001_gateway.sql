-- Mailboxes, the files taken in from them, messages, and the log.

CREATE TABLE ipc_mailboxes (
    number INTEGER PRIMARY KEY CHECK (number >= 1),
    attempt_id TEXT NOT NULL,
    group_name TEXT NOT NULL CHECK (group_name <> ''),
    task_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    traceparent TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('OPEN', 'CLOSED')),
    opened_at TEXT NOT NULL CHECK (length(opened_at) = 27),
    closed_at TEXT NOT NULL,
    CHECK ((state = 'CLOSED') = (closed_at <> '')),
    CHECK (attempt_id <> '' OR state = 'OPEN')
) STRICT;
CREATE UNIQUE INDEX ipc_mailboxes_attempt ON ipc_mailboxes (attempt_id) WHERE attempt_id <> '';
CREATE UNIQUE INDEX ipc_mailboxes_standing ON ipc_mailboxes (group_name) WHERE attempt_id = '';
CREATE INDEX ipc_mailboxes_open ON ipc_mailboxes (number) WHERE state = 'OPEN';

CREATE TABLE ipc_requests (
    id TEXT PRIMARY KEY CHECK (length(id) = 26),
    mailbox INTEGER NOT NULL REFERENCES ipc_mailboxes (number),
    group_name TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('tasks', 'messages', 'submit')),
    file_name TEXT NOT NULL,
    type TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest TEXT NOT NULL CHECK (length(digest) IN (0, 64)),
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ANSWERED', 'QUARANTINED', 'RETRYING', 'DROPPED')),
    status TEXT NOT NULL CHECK (status IN ('executed', 'denied', 'failed', 'timeout')),
    code TEXT NOT NULL CHECK (code <> ''),
    message TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27)
) STRICT, WITHOUT ROWID;
CREATE INDEX ipc_requests_mailbox ON ipc_requests (mailbox, created_at);
CREATE INDEX ipc_requests_quarantine ON ipc_requests (id) WHERE state <> 'ANSWERED';
CREATE INDEX ipc_requests_kept ON ipc_requests (group_name, id) WHERE state IN ('QUARANTINED', 'RETRYING');

CREATE TABLE ipc_answers (
    id TEXT PRIMARY KEY REFERENCES ipc_requests (id),
    name TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at TEXT NOT NULL CHECK (length(created_at) = 27)
) STRICT, WITHOUT ROWID;
CREATE INDEX ipc_answers_age ON ipc_answers (created_at);

CREATE TABLE ipc_messages (
    seq INTEGER PRIMARY KEY CHECK (seq >= 1),
    id TEXT NOT NULL UNIQUE CHECK (length(id) = 26),
    mailbox INTEGER NOT NULL REFERENCES ipc_mailboxes (number),
    group_name TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    text TEXT NOT NULL CHECK (text <> ''),
    created_at TEXT NOT NULL CHECK (length(created_at) = 27),
    replied_by TEXT NOT NULL,
    in_reply_to TEXT NOT NULL
) STRICT;
CREATE INDEX ipc_messages_group ON ipc_messages (group_name, seq);
CREATE INDEX ipc_messages_task ON ipc_messages (task_id, seq) WHERE task_id <> '';

CREATE TABLE ipc_rpc_requests (
    principal TEXT NOT NULL,
    request_id TEXT NOT NULL,
    rpc TEXT NOT NULL,
    body_digest TEXT NOT NULL CHECK (length(body_digest) = 64),
    response BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (principal, request_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE ipc_activities (
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
CREATE TRIGGER ipc_activities_no_update BEFORE UPDATE ON ipc_activities
BEGIN
    SELECT RAISE(ABORT, 'ipc_activities is append-only');
END;
CREATE TRIGGER ipc_activities_no_delete BEFORE DELETE ON ipc_activities
BEGIN
    SELECT RAISE(ABORT, 'ipc_activities is append-only');
END;
