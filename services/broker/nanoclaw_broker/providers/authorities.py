"""Whose certificates providers take, read once in a process: it takes milliseconds and megabytes each time."""

import ssl
from functools import cache

import httpx


@cache
def machine() -> ssl.SSLContext:
    """The authorities of the machine."""
    return ssl.create_default_context()


@cache
def public() -> ssl.SSLContext:
    """Those that browsers take, as they come with httpx."""
    return httpx.create_ssl_context(trust_env=False)
