"""The page runner notices what a page gets wrong: else its tests would show nothing."""

import pytest
from pasted import paste

PAGE = """
```sh
echo WORD; N=7
```
```text
WORD
```

text

```sh refused
echo $N; false; echo never
```
```text
7
```
"""


async def test_blocks_share_one_shell_and_print_what_is_shown() -> None:
    """Words of the commands are replaced, variables stay, a refused block ends at its error."""
    assert await paste(PAGE, {"echo WORD": "echo the WORD"}) == ["the WORD\n", "7\n"]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("```text\nWORD", "```text\nWORT"), ("false", "true"), ("```sh refused", "```sh"), ("WORD; N=7", "WORD; N=8")],
)
async def test_a_page_that_is_wrong_fails(right: str, wrong: str) -> None:
    """Another line, a refusal that is none, an error that was not announced, another value."""
    with pytest.raises(AssertionError, match="the block at line"):
        await paste(PAGE.replace(right, wrong), {})
