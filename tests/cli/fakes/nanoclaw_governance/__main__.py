"""Stands in for nanoclaw_governance."""

import asyncio

from fake_service import serve

asyncio.run(serve("governance"))
