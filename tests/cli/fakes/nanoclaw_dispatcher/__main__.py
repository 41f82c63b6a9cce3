"""Stands in for nanoclaw_dispatcher."""

import asyncio

from fake_service import serve

asyncio.run(serve("dispatcher"))
