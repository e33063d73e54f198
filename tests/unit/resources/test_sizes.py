import pytest

from appliance.resources.sizes import check_disk, check_memory, check_not_smaller, check_vcpus
from tests.unit.resources.expect import refused

GIB = 2**30


@pytest.mark.parametrize("value", [1, 4096])
def test_vcpus_are_accepted(value: int) -> None:
    check_vcpus(value)


@pytest.mark.parametrize("value", [0, -1, 4097, 2**63, 10**4000])
def test_vcpus_are_refused(value: int) -> None:
    refused(lambda: check_vcpus(value), "vcpus", "1 to 4096 is allowed")


@pytest.mark.parametrize("value", [2**20, GIB, 1_500_000_001, 2**46])
def test_memory_is_accepted(value: int) -> None:
    check_memory(value)


@pytest.mark.parametrize("value", [0, -1, 2**20 - 1, 2**46 + 1, -(2**70)])
def test_memory_is_refused(value: int) -> None:
    refused(lambda: check_memory(value), "memory", "1048576 to 70368744177664 is allowed")


@pytest.mark.parametrize("value", [1, GIB, 2**50])
def test_disk_is_accepted(value: int) -> None:
    check_disk(value, "size")


@pytest.mark.parametrize("value", [0, -GIB, 2**50 + 1])
def test_disk_is_refused(value: int) -> None:
    refused(lambda: check_disk(value, "size"), "size", "1 to 1125899906842624 is allowed")


def test_disk_grows_and_never_shrinks() -> None:
    check_not_smaller(GIB, GIB, "size")
    check_not_smaller(GIB + 1, GIB, "size")
    refused(lambda: check_not_smaller(1, 2, "size"), "size", "size is 2 and cannot shrink to 1")
