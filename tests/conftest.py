"""With several test processes (``-n``), each of them and what it starts computes with one thread."""

import os

if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported

import pytest

import tests.translations  # noqa: F401

LONG = ("tests/e2e/", "tests/test_recipes.py", "tests/test_docs.py", "tests/compressor/test_zoo.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: of several test processes none is left alone with one of them at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
