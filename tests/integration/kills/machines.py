"""What is done to a machine while processes die, and what must be true in the end."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.support.real_cloud import MIB, RealCloud

NAME: Final = "web"
_GROWN: Final = {"memory": 192 * MIB, "disk": 96 * MIB}


@dataclass(frozen=True, slots=True)
class Change:
    """A request about the machine.

    Attributes:
        about: what the machine is while it goes on.
        prepare: what comes before it.
        ask: send it.
        is_so: whether it is done, by what the API says.
    """

    about: str
    prepare: Callable[[RealCloud], object]
    ask: Callable[[RealCloud, httpx.Client], httpx.Response]
    is_so: Callable[[Sequence[Any]], bool]


def _create(cloud: RealCloud, client: httpx.Client) -> httpx.Response:
    return client.post(f"/api/v1{cloud.komputes_path}", json=cloud.machine(NAME))


def _resize(cloud: RealCloud, client: httpx.Client) -> httpx.Response:
    (kompute,) = cloud.objects("kompute")
    return client.put(f"/api/v1/kompute/{kompute['id']}", json=cloud.machine(NAME, **_GROWN))


def _delete(cloud: RealCloud, client: httpx.Client) -> httpx.Response:
    (kompute,) = cloud.objects("kompute")
    return client.delete(f"/api/v1/kompute/{kompute['id']}")


def _make(cloud: RealCloud) -> None:
    cloud.kompute(NAME)


CREATE: Final = Change("made", lambda _: None, _create, bool)
RESIZE: Final = Change("resized", _make, _resize, lambda found: found[0]["disk"] == _GROWN["disk"])
DELETE: Final = Change("deleted", _make, _delete, lambda found: not found)


def deletion(kompute: str) -> Change:
    """Return the deletion of a machine that the API does not list yet."""

    def ask(_: RealCloud, client: httpx.Client) -> httpx.Response:
        return client.delete(f"/api/v1/kompute/{kompute}")

    return Change("deleted", lambda _: None, ask, lambda found: not found)


class Meanwhile:
    """A request that waits for its answer while the test goes on."""

    def __init__(self, cloud: RealCloud, change: Change) -> None:
        self._client = cloud.client()
        self._pool = ThreadPoolExecutor(1)
        self._answer = self._pool.submit(change.ask, cloud, self._client)

    def answer(self) -> httpx.Response | None:
        """Return the answer, or None if whoever should have given it has died."""
        try:
            return self._answer.result()
        except httpx.TransportError:
            return None
        finally:
            self._pool.shutdown()
            self._client.close()


def assert_as_told(cloud: RealCloud) -> None:
    """What the API says of machines is what libvirt and the pool have, and all of them run."""
    cloud.assert_sound()
    uri = cloud.libvirtd.uri
    komputes = {kompute["name"]: kompute for kompute in cloud.objects("kompute")}
    instances = cloud.objects("instance")
    assert {instance["name"] for instance in instances} == set(komputes)
    running = cloud.libvirtd.run("virsh", "-q", "-c", uri, "list", "--name").split()
    assert sorted(running) == sorted(instance["id"] for instance in instances)
    for instance in instances:
        told = cloud.get(f"/instance/{instance['id']}/state")
        assert told["state"] == "Running", told
        kompute = komputes[instance["name"]]
        (volume,) = [v for v in cloud.objects("volume") if v["name"] == f"{kompute['name']}-os"]
        image = json.loads(
            cloud.libvirtd.run(
                "qemu-img",
                "info",
                "-U",
                "--output=json",
                cloud.pool / f"{volume['id']}.volume.qcow2",
            )
        )
        assert image["virtual-size"] == kompute["disk"]
        memory = cloud.libvirtd.run("virsh", "-q", "-c", uri, "dominfo", instance["id"])
        assert f"Max memory:     {kompute['memory'] // 1024} KiB" in memory


def assert_clean(cloud: RealCloud) -> None:
    """Remove the machine, if it is there: nothing is left of it."""
    for kompute in cloud.objects("kompute"):
        with cloud.client() as client:
            answer = client.delete(f"/api/v1/kompute/{kompute['id']}")
            assert answer.is_success, answer.text
    cloud.assert_sound()
    assert not cloud.objects("instance")
    assert not cloud.objects("volume")
