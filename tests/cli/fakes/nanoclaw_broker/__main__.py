"""Stands in for nanoclaw_broker."""

import asyncio

from fake_service import serve

asyncio.run(serve("broker"))
