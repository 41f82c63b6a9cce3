"""`python -m nanoclaw_agent relay [--port N] [-- command …]`; see nanoclaw_agent.relay."""

import sys

USAGE = "usage: python -m nanoclaw_agent relay [--port N] [-- command …]"


def main(arguments: list[str]) -> int:
    """The exit code."""
    if arguments[:1] == ["relay"]:
        from nanoclaw_agent import relay

        return relay.main(arguments[1:])
    print(USAGE, file=sys.stderr)
    return 0 if arguments[:1] in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
