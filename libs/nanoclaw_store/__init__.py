"""The store: one SQLite file, one writer per service, durable before acknowledged, and a log that can be checked."""

from nanoclaw_store.chain import Broken
from nanoclaw_store.database import Database
from nanoclaw_store.log import Change, Head, LogTable, log_ddl
from nanoclaw_store.requests import Idempotency, request_table, requests_ddl
from nanoclaw_store.slices import Slice
from nanoclaw_store.statements import Statement, UtcText, prepare
from nanoclaw_store.tx import Tx
from nanoclaw_store.verification import Report, SliceReport, verify

__all__ = [
    "Broken",
    "Change",
    "Database",
    "Head",
    "Idempotency",
    "LogTable",
    "Report",
    "Slice",
    "SliceReport",
    "Statement",
    "Tx",
    "UtcText",
    "log_ddl",
    "prepare",
    "request_table",
    "requests_ddl",
    "verify",
]
