"""What watchers of capabilities wait for: that something changed in what groups may call."""

import asyncio


class News:
    """Wakes them. edition: how often providers have changed since the start, in what they are or say of themselves."""

    def __init__(self) -> None:
        self.edition = 0
        self.next = asyncio.Event()

    def tell(self) -> None:
        """Grants or freezes may have changed."""
        self.next.set()
        self.next = asyncio.Event()

    def providers_changed(self) -> None:
        """A secret came or went, or an action has another schema."""
        self.edition += 1
        self.tell()
