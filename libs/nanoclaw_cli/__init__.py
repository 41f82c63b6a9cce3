"""The `nanoclaw` command: the whole API for people, and the supervision of the services on one machine."""

import os

# gRPC reads it when it is loaded. What it notes about connections is for its developers; people get our errors alone.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
