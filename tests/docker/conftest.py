"""Everything of compose.yaml on an engine of the tests' own, started once for all of them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aftermath import check_ledger
from engines import client, load_images, require_engine
from own_engine import OwnEngine
from stack import IMAGES, JAEGER, Stack, built


def has_jaeger() -> bool:
    """Whether deploy/jaeger-image was run on the engine that is here."""
    with client() as api:
        return bool(api.images(JAEGER))


@pytest.fixture(scope="session")
def engine() -> Iterator[OwnEngine]:
    """An engine of our own, with networks and this tree's images."""
    require_engine()
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="nce-", dir="/tmp")), 3000, bridges=True)
    try:
        with built():
            load_images(engine.host, (*IMAGES, JAEGER) if has_jaeger() else IMAGES)
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def stack(engine: OwnEngine) -> Iterator[Stack]:
    """Everything of compose.yaml on it, healthy. What is verified in the end is what all the tests have left."""
    folder = Path(tempfile.mkdtemp(prefix="ncs-", dir="/tmp"))
    stack = Stack(folder, engine.host, engine.address, jaeger=has_jaeger())
    try:
        stack.start()
        yield stack
        check_ledger(stack.copy_store(), stack.effects)
    finally:
        if "KEEP_HOME" in os.environ:  # to look at what a failed run left behind
            (folder / "logs").write_text(stack.logs())
        else:
            shutil.rmtree(folder, ignore_errors=True)
