"""Log lines: JSON to stderr, with the current trace's ids and without secrets, ours and other libraries' alike."""

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from nanoclaw_core.clock import to_text, utc_now
from nanoclaw_core.errors import Kind, NanoclawError
from nanoclaw_telemetry.context import running_trace
from nanoclaw_telemetry.scrub import SCRUBBED, is_secret_key, scrub_members, scrub_text

LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

Event = MutableMapping[str, Any]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=repr).encode
_FOREIGN_LEVEL = logging.WARNING
_PLAIN = frozenset({str, int, bool, float, type(None)})


_processors: list[Any] = []  # one list for good: loggers that were used before a second configure keep it


def level_of(name: str) -> int:
    """The number of a level's name. Raises NanoclawError INVALID_SETTING."""
    try:
        return LEVELS[name.upper()]
    except KeyError:
        raise NanoclawError(
            Kind.INVALID,
            "INVALID_SETTING",
            f"NANOCLAW_LOG_LEVEL={name!r} is not a log level",
            next_step=f"set it to one of {', '.join(LEVELS)}, or unset it",
        ) from None


def configure(service: str, level: int) -> None:
    """Sends structlog's and the standard library's lines to stderr as JSON; the last call in a process wins."""
    _processors[:] = [_Line(service)]
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Foreign)]:
        root.removeHandler(handler)
    root.addHandler(_Foreign(service))
    root.setLevel(max(level, _FOREIGN_LEVEL))


class _Stderr:
    """Writes to whatever stderr is at that moment; a full pipe or closed stream must not fail a request."""

    def msg(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg


class _Line:
    """One processor instead of a chain: a line costs a few microseconds."""

    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: Any, method: str, event: Event) -> str:
        line: dict[str, Any] = {
            "time": to_text(utc_now()),
            "level": "error" if method == "exception" else method,
            "event": event.pop("event", ""),
            "service": event.pop("service", self.service),
        }
        trace = running_trace()
        if trace is not None:
            line["trace_id"] = trace.trace_id
            line["span_id"] = trace.span_id
        exc_info = event.pop("exc_info", None)
        for key, value in event.items():
            if is_secret_key(key):
                line[key] = SCRUBBED
            else:
                line[key] = value if type(value) in _PLAIN else scrub_members(value)
        if exc_info:
            line["exception"] = _traceback(exc_info)
        return scrub_text(_encode(line)) + "\n"


def _traceback(exc_info: Any) -> str:
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif not isinstance(exc_info, tuple):
        exc_info = sys.exc_info()
    return logging.Formatter().formatException(exc_info) if exc_info[0] is not None else ""


class _Foreign(logging.Handler):
    """The standard library's loggers (grpc, OpenTelemetry, docker, …) in the same form."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._line = _Line(service)
        self._out = _Stderr()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Event = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            self._out.msg(self._line(None, record.levelname.lower(), event))
        except Exception:
            self.handleError(record)
