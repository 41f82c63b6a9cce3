"""Stands in for nanoclaw_ipc_gateway."""

import asyncio

from fake_service import serve

asyncio.run(serve("gateway"))
