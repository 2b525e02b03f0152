"""What tests of faults need of the machine."""

import os
from collections.abc import Callable

import pytest

from tests.e2e.conftest import find_program


@pytest.fixture
def as_root() -> None:
    """The test mounts file systems or makes network namespaces: skipped for others, fails in CI."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("this test needs root, and CI must run it")
        pytest.skip("this test needs root")


@pytest.fixture
def needs() -> Callable[..., None]:
    """Skip the test where a program is missing; fail in CI."""

    def check(*programs: str) -> None:
        for program in programs:
            find_program(program)

    return check


@pytest.fixture
def seed() -> int:
    """A seed for this run, to be shown where the test fails; FILE_SERVICE_TEST_SEED repeats one."""
    return int(os.environ.get("FILE_SERVICE_TEST_SEED", str(int.from_bytes(os.urandom(4)))))
