"""The `nanoclaw` command: the whole API for people, and the supervision of the services on one machine."""

import os

_VERBOSITY = "GRPC_VERBOSITY"
_HUSHED = _VERBOSITY not in os.environ

# gRPC reads it when it is loaded. What it notes about connections is for its developers; people get our errors alone.
os.environ.setdefault(_VERBOSITY, "ERROR")


def given_environ() -> dict[str, str]:
    """The environment as it was given to us, for the services: their logs keep what gRPC notes, which alone says why a
    handshake failed."""
    return {name: value for name, value in os.environ.items() if name != _VERBOSITY or not _HUSHED}
