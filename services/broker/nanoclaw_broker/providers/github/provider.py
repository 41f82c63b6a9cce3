"""The provider, with its actions over one API and one list of repositories."""

from nanoclaw_broker.providers.base import Environment, Provider
from nanoclaw_broker.providers.github.api import TOKEN
from nanoclaw_broker.providers.github.reads import READS
from nanoclaw_broker.providers.github.releases import IRREVOCABLE
from nanoclaw_broker.providers.github.repos import made
from nanoclaw_broker.providers.github.writes import WRITES


def provider(environment: Environment) -> Provider:
    """The provider. Raises INVALID_SETTING."""
    api, repos = made(environment, TOKEN)
    actions = tuple(action(api, repos) for action in (*READS, *WRITES, *IRREVOCABLE))
    return Provider("github", "repositories, issues, pull requests and releases", actions, required_secrets=(TOKEN,))
