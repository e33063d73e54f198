"""What networks do to agents while work is under way: it ends, and nothing is done twice.

Kahuna and agents are processes in networks of their own (`far_cloud`); only what the agents drive
is simulated.
"""

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.support.far_cloud import Far, FarCloud, Meanwhile, Process, name_kahuna
from tests.support.far_role import LongWay
from tests.support.faults import What, Where, breaks
from tests.support.wait import until_now

pytestmark = pytest.mark.timeout(600)
_DONE = "the work under way ends once the network is well, and nothing is done twice"
_NOTICED = "both sides notice within 15 s, " + _DONE.replace(
    "the work", "the agent comes back, work"
)


def begin(cloud: FarCloud, work: Callable[[], object]) -> Meanwhile:
    """Begin something, and return once it is under way."""
    before = {operation["id"] for operation in cloud.unfinished()}
    begun = Meanwhile(work)

    def is_under_way() -> bool:
        if begun.is_over:
            begun.result()  # raises what was wrong
        under_way = {operation["id"] for operation in cloud.unfinished()} - before
        return begun.is_over or bool(under_way)

    until_now(is_under_way, "the work begins")
    return begun


def create_and_delete(
    cloud: FarCloud, far: Far, trouble: Callable[[], AbstractContextManager[None]]
) -> None:
    """Have trouble while a Kompute is made, and again while it is deleted."""
    made = begin(cloud, lambda: cloud.create(far, f"web-{time.monotonic_ns()}"))
    with trouble():
        pass
    kompute = made.result()
    deleted = begin(cloud, lambda: cloud.delete(kompute))
    with trouble():
        pass
    deleted.result()
    cloud.assert_sound()


@breaks(
    What.NETWORK, "connections are reset while a Kompute is made or deleted", expected=_DONE,
    where=Where.NAMESPACE,
)  # fmt: skip
def test_reset(cloud: FarCloud) -> None:
    far = cloud.agents[0]

    @contextmanager
    def reset() -> Generator[None]:
        old = cloud.until_connected(far)
        cloud.reset_connections(far)
        cloud.until_connected(far, but_not=old)
        yield

    create_and_delete(cloud, far, reset)
    assert "1006 the connection broke" in cloud.kahuna.told()


@breaks(
    What.NETWORK, "20 % of the packets are lost, in both directions", expected=_DONE,
    where=Where.NAMESPACE,
)  # fmt: skip
def test_loss(cloud: FarCloud) -> None:
    far = cloud.agents[1]
    end = far.port_of_kahuna
    lose = "meta l4proto tcp numgen random mod 100 < 20 drop"
    with cloud.trouble(f"input iifname {end} {lose}", f"output oifname {end} {lose}"):
        old = cloud.until_connected(far)
        cloud.reset_connections(far)
        cloud.until_connected(far, but_not=old)
        cloud.delete(cloud.create(far, "lossy"))
    cloud.assert_sound()


@breaks(
    What.NETWORK, "a link that is up for 1 s and down for 1 s, again and again", expected=_DONE,
    where=Where.NAMESPACE,
)  # fmt: skip
def test_flapping(cloud: FarCloud) -> None:
    far = cloud.agents[2]

    @contextmanager
    def flap() -> Generator[None]:
        for state in ("down", "up") * 2:
            cloud.network.run("ip", "link", "set", far.port_of_kahuna, state)
            time.sleep(1)
        yield

    create_and_delete(cloud, far, flap)


@breaks(
    What.NETWORK, "packets from the agent vanish (half-open)", expected=_NOTICED,
    where=Where.NAMESPACE,
)  # fmt: skip
@breaks(
    What.NETWORK, "packets to the agent vanish (half-open)", expected=_NOTICED,
    where=Where.NAMESPACE,
)  # fmt: skip
@breaks(What.NETWORK, "packets vanish in both directions", expected=_NOTICED, where=Where.NAMESPACE)
@breaks(
    What.NETWORK, "packets above 500 bytes vanish (a black hole of the MTU)", expected=_NOTICED,
    where=Where.NAMESPACE,
)  # fmt: skip
def test_silence(cloud: FarCloud) -> None:
    one, two, three, four = cloud.agents
    old = {far.number: cloud.until_connected(far) for far in cloud.agents}
    made = [Meanwhile(cloud.create, far, f"quiet-{far.number}") for far in cloud.agents]
    until_now(
        lambda: len(cloud.unfinished()) + sum(each.is_over for each in made) >= len(made),
        "all are being made",
    )
    left = {far.number: _times_left(far) for far in cloud.agents}
    with cloud.trouble(
        f"input iifname {one.port_of_kahuna} drop",
        f"output oifname {two.port_of_kahuna} drop",
        f"input iifname {three.port_of_kahuna} drop",
        f"output oifname {three.port_of_kahuna} drop",
        f"input iifname {four.port_of_kahuna} meta length > 500 drop",
        f"output oifname {four.port_of_kahuna} meta length > 500 drop",
    ):
        for far in cloud.agents:
            cloud.until_away(far, old[far.number])
            until_now(lambda far=far: _times_left(far) > left[far.number], "it notices")  # type: ignore[misc]
    komputes = [each.result() for each in made]
    cloud.settle()
    deleted = [Meanwhile(cloud.delete, kompute) for kompute in komputes]
    for each in deleted:
        each.result()
    cloud.assert_sound()
    silence = "nothing received for 15 s"
    assert cloud.kahuna.told().count(silence) >= 2
    assert silence in two.process.told()


def _times_left(far: Far) -> int:
    return far.process.told().count("kahuna_disconnected")


@breaks(
    What.NETWORK, "the name of Kahuna leads nowhere for a while, then to another address",
    expected="the agent says why it is not connected, and goes where the name leads",
    where=Where.NAMESPACE,
)  # fmt: skip
def test_another_address(cloud: FarCloud) -> None:
    far = cloud.agents[3]
    old = cloud.until_connected(far)
    made = begin(cloud, lambda: cloud.create(far, "moving"))
    name_kahuna(far.hosts, "")
    cloud.reset_connections(far)
    until_now(lambda: "Name or service" in far.process.told(), "the agent tells")
    for change in (("del", "10.99.4.1/24"), ("add", "10.99.4.9/24")):
        cloud.network.run("ip", "address", *change, "dev", far.port_of_kahuna)
    name_kahuna(far.hosts, "10.99.4.9")
    cloud.until_connected(far, but_not=old)
    made.result()
    cloud.assert_sound()


@breaks(
    What.NETWORK, "everything takes 5 s each way",
    expected="agents connect, Komputes are made and deleted, nothing is done twice",
    where=Where.NAMESPACE, long=True,
)  # fmt: skip
def test_latency(cloud: FarCloud) -> None:
    far = cloud.agents[2]
    old = address = cloud.until_connected(far)
    way = Process(
        far.network,
        cloud.directory / "way.log",
        "way",
        LongWay(kahuna=f"10.99.{far.number}.1", delay_s=5),
    )
    try:
        way.until_ready()
        name_kahuna(far.hosts, "127.0.0.1")
        cloud.reset_connections(far)
        address = cloud.until_connected(far, but_not=old)
        cloud.delete(cloud.create(far, "distant"))
        cloud.assert_sound()
        assert cloud.until_connected(far) == address, "the session lasts"
    finally:
        way.end()
        name_kahuna(far.hosts, f"10.99.{far.number}.1")
        cloud.until_connected(far, but_not=address)
