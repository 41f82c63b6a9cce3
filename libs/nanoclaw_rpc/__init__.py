"""gRPC as this house does it: servers behind one set of concerns, clients that raise the server's errors, identity."""

from nanoclaw_rpc import page, times
from nanoclaw_rpc.access import Access
from nanoclaw_rpc.call import current_caller, current_trace, mark_replayed, note
from nanoclaw_rpc.client import connect, on_behalf
from nanoclaw_rpc.credentials import Credentials
from nanoclaw_rpc.server import Server, ServiceSpec, serve_until_signalled
from nanoclaw_rpc.tls import Tls

__all__ = [
    "Access",
    "Credentials",
    "Server",
    "ServiceSpec",
    "Tls",
    "connect",
    "current_caller",
    "current_trace",
    "mark_replayed",
    "note",
    "on_behalf",
    "page",
    "serve_until_signalled",
    "times",
]
