"""The last lines of an agent's output, whatever bytes it wrote."""

from hypothesis import given
from hypothesis import strategies as st

from nanoclaw_dispatcher.tail import tail_lines


@given(st.binary(max_size=300), st.integers(min_value=8, max_value=64), st.booleans())
def test_any_bytes_become_short_harmless_text(output: bytes, limit: int, cut: bool) -> None:
    """Within the limit, valid UTF-8, no control character but tab and line feed."""
    text = tail_lines(output, cut=cut, limit=limit)
    assert len(text.encode()) <= limit
    assert all(character in "\n\t" or character.isprintable() or ord(character) >= 0xA0 for character in text)


@given(st.lists(st.text(alphabet="abcé ", max_size=10), max_size=20), st.integers(min_value=12, max_value=80))
def test_what_is_kept_are_the_last_lines_whole(lines: list[str], limit: int) -> None:
    """Lines fall away from the front, and never a part of one, while the last line fits."""
    whole = "\n".join(lines).rstrip("\n")
    text = tail_lines(whole.encode(), limit=limit)
    assert whole.endswith(text)
    kept = text.split("\n")
    last = whole.split("\n")[-1]
    if len(last.encode()) < limit - 4:
        assert kept == whole.split("\n")[-len(kept) :]


def test_a_last_line_that_is_too_long_shows_its_end() -> None:
    """Better half of the reason than none."""
    assert tail_lines(b"first\n" + b"x" * 100 + b"end", limit=10) == "xxxxxxxend"


def test_a_character_that_was_cut_in_two_leaves_no_trace() -> None:
    """The window may begin in the middle of one."""
    assert tail_lines("é".encode()[1:] + b"rest\nnext", cut=True) == "next"


def test_escapes_are_for_what_could_move_a_cursor_or_a_reader() -> None:
    """ESC, carriage return, line separators, marks that turn text around; letters of all languages stay."""
    assert tail_lines("a\rb\x1b[2J\u2028\u202eq 漢字 ñ\x85".encode()) == "a\\x0db\\x1b[2J\\u2028\\u202eq 漢字 ñ\\x85"
