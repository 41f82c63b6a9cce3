"""The provider `http`: web hosts of the operator's lists."""

from nanoclaw_broker.providers import authorities
from nanoclaw_broker.providers.addresses import AllowList
from nanoclaw_broker.providers.base import Environment, Provider
from nanoclaw_broker.providers.guarded import Resolve, resolve
from nanoclaw_broker.providers.http_read import Get, Head
from nanoclaw_broker.providers.http_write import Delete, Patch, Post, Put, WriteHosts


def provider(environment: Environment, resolve: Resolve = resolve) -> Provider:
    """The provider. Raises INVALID_SETTING for a list of hosts that can't be read."""
    allow, tls = AllowList(environment.http_allow), authorities.machine()
    hosts = WriteHosts(environment)
    return Provider(
        "http",
        "read from web hosts on the operator's allow-list, and write to those listed for it",
        (
            Get(allow, tls, resolve),
            Head(allow, tls, resolve),
            *(action(hosts, tls, resolve) for action in (Post, Put, Patch, Delete)),
        ),
        secrets_in_part=hosts.secrets,
    )
