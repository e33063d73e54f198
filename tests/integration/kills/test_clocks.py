"""A Kahuna and a Kaktus whose clocks disagree, with real processes, libvirtd and QEMU."""

from collections.abc import Generator

import pytest

from tests.support.faults import What, Where, breaks
from tests.support.real_cloud import RealCloud

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _clocks_are_right_again(cloud: RealCloud) -> Generator[None]:
    yield
    cloud.kaktus.set_clock(0)
    cloud.kahuna.set_clock(0)


@breaks(
    What.CLOCK,
    "agent and Kahuna disagree by a day, and change places while a machine is made, stopped and "
    "removed",
    expected="all of it works; nothing is left over",
    where=Where.NAMESPACE,
)
def test_a_kaktus_a_day_ahead_and_then_a_day_behind_does_its_work(cloud: RealCloud) -> None:
    for role in (cloud.kaktus, cloud.kahuna):
        role.stop()
        role.set_clock(DAY if role is cloud.kaktus else 0)
    cloud.kahuna.start()
    cloud.kaktus.start()
    cloud.settle()
    web = cloud.kompute("clocks")
    cloud.assert_sound()
    cloud.kaktus.set_clock(-DAY)
    with cloud.client() as client:
        for act in ("stop", "start"):
            assert client.patch(f"/api/v1/kompute/{web}/{act}").is_success
    assert cloud.get(f"/kompute/{web}/state")["state"] == "Running"
    cloud.assert_sound()
    cloud.kahuna.set_clock(DAY)
    with cloud.client() as client:
        assert client.delete(f"/api/v1/kompute/{web}").is_success
    cloud.assert_sound()
