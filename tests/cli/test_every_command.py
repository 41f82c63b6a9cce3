"""What holds for every command, whichever noun it belongs to."""

from collections.abc import Iterator

import typer

from nanoclaw_cli.__main__ import app


def commands() -> Iterator[tuple[str, set[str], str]]:
    """Each command's words, its options, and what its help says first."""
    left = [("nanoclaw", typer.main.get_command(app))]
    while left:
        words, found = left.pop()
        inner = getattr(found, "commands", {})
        left += [(f"{words} {name}", one) for name, one in inner.items()]
        if not inner:
            yield words, {option for param in found.params for option in param.opts}, found.help or ""


def test_every_command_answers_with_json_and_says_what_it_does() -> None:
    """As `nanoclaw --help` promises; a program finds no command that it can't read."""
    found = list(commands())
    assert len(found) > 50
    assert not [words for words, options, _ in found if "--json" not in options]
    assert not [words for words, _, help_ in found if not help_.strip()]
