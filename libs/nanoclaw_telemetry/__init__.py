"""Traces, metrics and logs: one small set-up that costs nothing when nobody listens."""

from nanoclaw_telemetry.context import TraceContext, current_trace, under
from nanoclaw_telemetry.telemetry import Telemetry, off, setup

__all__ = ["Telemetry", "TraceContext", "current_trace", "off", "setup", "under"]
