"""A group's folder, which outlives its containers: files that agents make, and what they remember about a task."""

import contextlib
import json
import os
from typing import Any


class Folder:
    """The group's folder. Paths are relative to it; every method raises OSError where the disk does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, name: str, text: str) -> None:
        """Replaces a file at once, with its folders."""
        path = self._prepared(name)
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)

    def append(self, name: str, text: str) -> None:
        """Adds to a file."""
        with open(self._prepared(name), "a", encoding="utf-8") as file:
            file.write(text)

    def recall(self, task_id: str) -> dict[str, Any]:
        """What was remembered about a task; empty at first, or where it can't be read."""
        with contextlib.suppress(OSError, ValueError), open(os.path.join(self.path, self._memory(task_id))) as file:
            value = json.load(file)
            return value if isinstance(value, dict) else {}
        return {}

    def remember(self, task_id: str, value: dict[str, Any]) -> None:
        """Replaces it."""
        self.write(self._memory(task_id), json.dumps(value))

    def _prepared(self, name: str) -> str:
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    @staticmethod
    def _memory(task_id: str) -> str:
        return f".nanoclaw/{task_id}.json"
