"""One folder of built kernels for the whole run of the tests."""

from __future__ import annotations

import pytest

from tests.compressor.kernels.machine import Machine, why_not


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The kernel's source, built for this CPU where there is a compiler."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    return Machine(tmp_path_factory.mktemp("kernel"))
