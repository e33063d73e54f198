"""libvirtd and QEMU die under a whole cloud; Kahuna and the agent live on."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from appliance.drivers.libvirt.record import RECORD_KEY, RECORD_URI
from tests.support.faults import What, Where, breaks
from tests.support.furnish import Api
from tests.support.real_cloud import MIB, RealCloud, real_cloud
from tests.support.wait import until_now

LIMIT_S: Final = 100.0
Blow = Callable[[RealCloud, str], None]


@pytest.fixture(scope="module")
def place() -> Generator[RealCloud]:
    with real_cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(place: RealCloud) -> Generator[RealCloud]:
    """Nothing may be left of the machines of a test."""
    yield place
    with place.client() as client:
        for kompute in Api(client).get("/kompute"):
            Api(client).delete(f"/kompute/{kompute}")
    place.assert_sound()


def api(cloud: RealCloud, method: str, path: str, body: object = None) -> httpx.Response:
    with cloud.client() as client:
        return client.request(method, f"/api/v1{path}", json=body)


def instance_of(cloud: RealCloud, kompute: str) -> str:
    name = cloud.get(f"/kompute/{kompute}")["name"]
    (found,) = [each["id"] for each in cloud.objects("instance") if each["name"] == name]
    return str(found)


def state_of(cloud: RealCloud, kompute: str) -> str:
    return str(cloud.get(f"/kompute/{kompute}/state")["state"])


def qemu_pids(cloud: RealCloud) -> set[Path]:
    """Return the files in which libvirt keeps the process of each machine, named by its id."""
    return set((cloud.libvirtd.directory / "run" / "qemu").glob("*.pid")) - {
        cloud.libvirtd.directory / "run" / "qemu" / "driver.pid"
    }


def screens(cloud: RealCloud) -> set[Path]:
    """Return the sockets that QEMUs have opened."""
    return set((cloud.state / "consoles" / "sockets").glob("*.vnc"))


def definitions(cloud: RealCloud) -> set[Path]:
    return set((cloud.libvirtd.directory / "etc" / "qemu").glob("*.xml"))


def restart_libvirtd(cloud: RealCloud, _: str) -> None:
    cloud.libvirtd.kill()
    cloud.libvirtd.start()


def kill_qemu(cloud: RealCloud, domain_id: str) -> None:
    cloud.libvirtd.signal_qemu(domain_id, "KILL")


def struck_while_made(
    cloud: RealCloud, name: str, sign: Callable[[RealCloud], set[Path]], blow: Blow
) -> httpx.Response:
    """Make a machine; strike at the first sign of it on the node."""
    before = sign(cloud)
    with ThreadPoolExecutor(1) as aside:
        made = aside.submit(api, cloud, "POST", cloud.komputes_path, cloud.machine(name))
        until_now(lambda: bool(sign(cloud) - before), "a sign of it", timeout_s=LIMIT_S)
        (there,) = sign(cloud) - before
        blow(cloud, there.stem)
        return made.result()


def assert_made_or_not(cloud: RealCloud, name: str, answer: httpx.Response) -> None:
    """It runs if the answer says that it was made; else nothing is left of it."""
    cloud.assert_sound()
    there = [each["id"] for each in cloud.objects("kompute") if each["name"] == name]
    if answer.is_success:
        assert there == [answer.json()["id"]]
        assert state_of(cloud, there[0]) == "Running"
    else:
        assert answer.status_code in (502, 503, 504), answer.text
        assert answer.json()["reason"]
        assert there == []


@pytest.mark.parametrize(
    ("sign", "blow"),
    [
        pytest.param(
            sign,
            blow,
            id=name,
            marks=breaks(
                What.PROCESS,
                fault,
                expected="the machine is made, or a clear error and nothing is left of it",
                where=Where.NAMESPACE,
            ),
        )
        for name, fault, sign, blow in (
            ("defined", "libvirtd restarted during a create", definitions, restart_libvirtd),
            ("started", "libvirtd restarted during a create", screens, restart_libvirtd),
            ("qemu", "QEMU killed while a new machine starts", screens, kill_qemu),
        )
    ],
)
def test_a_create_survives_or_leaves_nothing(
    cloud: RealCloud,
    request: pytest.FixtureRequest,
    sign: Callable[[RealCloud], set[Path]],
    blow: Blow,
) -> None:
    name = request.node.callspec.id
    answer = struck_while_made(cloud, name, sign, blow)
    assert_made_or_not(cloud, name, answer)


@breaks(
    What.PROCESS,
    "a create while libvirtd is away",
    expected="the machine is made once libvirtd is back",
    where=Where.NAMESPACE,
)
def test_a_create_waits_for_libvirtd(cloud: RealCloud) -> None:
    cloud.libvirtd.kill()
    with ThreadPoolExecutor(1) as aside:
        made = aside.submit(api, cloud, "POST", cloud.komputes_path, cloud.machine("patient"))
        until_now(lambda: bool(cloud.ext("/operations?unfinished=true")), "the create begins")
        cloud.libvirtd.start()
        answer = made.result()
    assert answer.is_success, answer.text
    assert_made_or_not(cloud, "patient", answer)


@breaks(
    What.PROCESS,
    "libvirtd away during an import",
    expected="the template is imported all the same",
    where=Where.NAMESPACE,
)
def test_an_import_needs_no_libvirtd(cloud: RealCloud) -> None:
    source = cloud.get(f"/template/{cloud.place.template}")["source"]
    cloud.libvirtd.kill()
    try:
        answer = api(
            cloud, "POST", f"/pool/{cloud.place.pool}/template", {"name": "two", "source": source}
        )
    finally:
        cloud.libvirtd.start()
    assert answer.is_success, answer.text
    cloud.assert_sound()


@pytest.mark.parametrize(("action", "state"), [(None, "Running"), ("suspend", "Paused")])
@breaks(
    What.PROCESS,
    "QEMU killed",
    expected="the machine is started again, or paused again, as it was wanted",
    where=Where.NAMESPACE,
)
def test_a_machine_whose_qemu_dies_is_started_again(
    cloud: RealCloud, action: str | None, state: str
) -> None:
    kompute = cloud.kompute(f"victim-{state.lower()}")
    domain_id = instance_of(cloud, kompute)
    if action is not None:
        with cloud.client() as client:
            Api(client).patch(f"/kompute/{kompute}/{action}")
    (pid_file,) = [file for file in qemu_pids(cloud) if file.stem == domain_id]
    before = pid_file.read_text()
    kill_qemu(cloud, domain_id)

    def is_back() -> bool:
        return (
            pid_file.exists()
            and pid_file.read_text() != before
            and state_of(cloud, kompute) == state
        )

    until_now(is_back, "the machine is back", timeout_s=LIMIT_S)
    cloud.assert_sound()


@breaks(
    What.PROCESS,
    "QEMU killed while its machine is resized",
    expected="the machine runs in its new size, at once or after a clear error",
    where=Where.NAMESPACE,
)
def test_a_machine_whose_qemu_dies_while_it_is_resized_has_its_size_in_the_end(
    cloud: RealCloud,
) -> None:
    kompute = cloud.kompute("grown")
    domain_id = instance_of(cloud, kompute)
    size = {"name": "grown", "vcpus": 2, "memory": 160 * MIB, "disk": 96 * MIB}
    with ThreadPoolExecutor(1) as aside:
        changed = aside.submit(api, cloud, "PUT", f"/kompute/{kompute}", size)
        until_now(lambda: bool(cloud.ext("/operations?unfinished=true")), "the change begins")
        kill_qemu(cloud, domain_id)
        answer = changed.result()
    assert answer.is_success or "tried again by itself" in answer.json()["reason"]
    until_now(lambda: memory_of(cloud, domain_id) == 160 * MIB, "it has grown", timeout_s=LIMIT_S)
    cloud.assert_sound()
    assert state_of(cloud, kompute) == "Running"


def memory_of(cloud: RealCloud, domain_id: str) -> int:
    """Return the memory of what runs."""
    words: Any = cloud.libvirtd.run("virsh", "-q", "-c", cloud.libvirtd.uri, "dominfo", domain_id)
    told = dict(line.split(":", 1) for line in words.splitlines() if ":" in line)
    return int(told["Max memory"].split()[0]) * 1024


@breaks(
    What.PROCESS,
    "what an agent wrote into a domain about it cannot be read",
    expected="the machine runs on; reconciliation writes it anew",
    where=Where.NAMESPACE,
)
def test_an_unreadable_record_is_written_anew(cloud: RealCloud) -> None:
    kompute = cloud.kompute("riddle")
    domain_id = instance_of(cloud, kompute)
    (pid_file,) = [file for file in qemu_pids(cloud) if file.stem == domain_id]
    before = pid_file.read_text()
    cloud.libvirtd.run(
        "virsh", "-c", cloud.libvirtd.uri, "metadata", domain_id, "--uri", RECORD_URI,
        "--key", RECORD_KEY, "--set", "<domain>from the future</domain>", "--live", "--config",
    )  # fmt: skip
    assert any(domain_id in finding for finding in cloud.verify())
    answer = api(cloud, "PATCH", f"/kompute/{kompute}/suspend")
    assert "apply its definition again" in answer.json()["reason"], answer.text
    cloud.assert_sound()
    assert state_of(cloud, kompute) == "Paused"
    assert pid_file.read_text() == before
