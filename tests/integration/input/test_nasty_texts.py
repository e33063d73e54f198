"""Texts that are something else to a shell, a parser or a terminal, from the API into a guest.

Everything that takes free text has one; then each place where it arrives is read by whoever reads
it there: libvirt, PyYAML, a guest's kernel, the command line.
"""

import copy
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import libvirt
import pytest
import yaml

from appliance.cli.main import run
from appliance.core.secret import Secret
from appliance.core.unix_password import hash_unix_password
from appliance.drivers.libvirt.record import RECORD_URI, domain_uuid
from tests.integration.input import seed_program
from tests.support.faults import What, Where, breaks
from tests.support.furnish import Api
from tests.support.python_guest import python_guest
from tests.support.real_cloud import EXT, MIB, RealCloud, real_cloud

Json = Any  # what a JSON text may hold

LINE: Final = (
    "a\"'/><!--]]>&amp;&#0;<x> $(reboot)`id`|;&&'; DROP TABLE kompute;-- ${x} {{x}} %s\\n "
    "../.. #é 🏄 : - *a &b !!c % @ ~ = ? [x] {y}, > |"
)
TEXT: Final = (
    f"{LINE}\n\r\n\t- a: b\n---\n...\nruncmd: [reboot]\n]]></description><name>x</name>\n"
    "\u202egnp.exe\u202c a\u200bb \ufeff \u2028 \u2029 e\u0301\u0301 \ufffe \U0010ffff \\x1b[2J\n "
)
PUBLIC_KEY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
)
ADDED: Final[Json] = {
    "write_files": [{"path": "/etc/x", "content": TEXT.replace("\ufffe", "")}],
    "x_nasty": {LINE: [LINE, "yes", "012", "1:20", "~", "2001-01-01", " x ", "\x1b[2J\x07"]},
    "x_plain": [True, 12, 80, None, 0.5],
}

NOUNS: Final = (
    "region", "zone", "kaktus", "pool", "template", "vnet", "subnet", "team", "agent", "project",
    "kompute", "instance",
)  # fmt: skip

carried = partial(
    breaks,
    What.INPUT,
    "names, descriptions, keys, passwords and settings full of markup, commands and odd characters",
    where=Where.NAMESPACE,
)


@pytest.fixture(scope="module")
def cloud() -> Generator[RealCloud]:
    with real_cloud() as cloud, cloud.client() as client:
        _rename_everything(Api(client), cloud)
        answer = client.put(
            f"{EXT}/settings/cloud_init.linux",
            json={"value": yaml.safe_dump(ADDED, allow_unicode=True)},
        )
        assert answer.is_success, answer.text
        yield cloud


def _rename_everything(api: Api, cloud: RealCloud) -> None:
    place = cloud.place
    (vnet,), (subnet,), (team,), (agent,) = (
        api.get(path) for path in ("/vnet", "/subnet", "/team", "/agent")
    )
    for path in (
        f"/region/{place.region}", f"/zone/{place.zone}", f"/kaktus/{place.kaktus}",
        f"/pool/{place.pool}", f"/template/{place.template}", f"/vnet/{vnet}", f"/subnet/{subnet}",
        f"/team/{team}", f"/agent/{agent}",
    ):  # fmt: skip
        change(api, path, name=LINE, description=TEXT)
    change(
        api, f"/project/{place.project}",
        name=LINE, description=TEXT, root_password=LINE, bootstrap_pubkey=f"{PUBLIC_KEY} {LINE}",
        tags=[LINE], metadatas=[{"key": LINE, "value": LINE}],
    )  # fmt: skip


def change(api: Api, path: str, **fields: Json) -> None:
    """Put fields into an object, those that it has, and see that they arrive there."""
    now = api.get(path)
    wanted = {name: value for name, value in fields.items() if name in now}
    answer = api.client.put(f"/api/v1{path}", json={**now, **wanted})
    assert answer.is_success, (path, answer.text)
    then = api.get(path)
    assert {name: then[name] for name in wanted} == wanted


@pytest.fixture(scope="module")
def instance(cloud: RealCloud) -> str:
    """The instance of a machine whose every text is nasty."""
    cloud.kompute("nasty_1.example", description=TEXT)
    (instance_id,) = cloud.get("/instance")
    cloud.settle()
    return str(instance_id)


@carried(expected="the API and libvirt's record have every character; the description what XML has")
def test_a_domain_has_the_very_texts(cloud: RealCloud, instance: str) -> None:
    (kompute,) = cloud.objects("kompute")
    assert kompute["description"] == TEXT
    assert cloud.get(f"/instance/{instance}")["description"] == TEXT
    connection = libvirt.open(cloud.libvirtd.uri)
    try:
        domain = connection.lookupByUUIDString(domain_uuid(instance))
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
            definition = ET.fromstring(domain.XMLDesc(flags))
            record = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, RECORD_URI, flags and 2)
            assert json.loads(ET.fromstring(record).text or "")["description"] == TEXT
            assert definition.findtext("title") == "nasty_1.example"
            # A carriage return is a line's end to XML; U+FFFE is no character to it.
            told = TEXT.replace("\r\n", "\n").replace("\ufffe", "\ufffd")
            assert definition.findtext("description") == told
            assert [each.text for each in definition.iter("name")] == [instance]
        assert domain.isActive()
    finally:
        connection.close()
    cloud.assert_sound()


def _seed(cloud: RealCloud, instance: str) -> Path:
    return cloud.pool / f"{instance}.seed.iso"


def _expected(cloud: RealCloud, instance: str, seen: Json) -> Json:
    """Return what the three documents say, but for secrets and the ways of the network."""
    user, network = seen["user-data"], seen["network-config"]
    (card,) = network["ethernets"]
    guest_secret = user["write_files"][0]["content"]
    salt = user["users"][0]["hashed_passwd"].split("$")[2]
    return {
        "user-data": {
            **copy.deepcopy(ADDED),
            "hostname": "nasty_1.example",
            "fqdn": "nasty_1.example.acme.example",
            "manage_etc_hosts": "localhost",
            "ssh_pwauth": False,
            "disable_root": False,
            "users": [
                {
                    "name": "root",
                    "lock_passwd": False,
                    "hashed_passwd": hash_unix_password(Secret(LINE), salt),
                },
                {
                    **user["users"][1],
                    "name": "admin",
                    "ssh_authorized_keys": [f"{PUBLIC_KEY} {LINE}"],
                },
            ],
            "write_files": [
                {
                    "path": "/etc/kowabunga/guest-secret", "owner": "root:root",
                    "permissions": "0600", "content": guest_secret,
                },
                user["write_files"][1],
                *ADDED["write_files"],
            ],
            "updates": {"network": {"when": ["boot-new-instance", "boot"]}},
            "package_update": True,
            "packages": ["qemu-guest-agent", "ca-certificates", "curl"],
            "runcmd": ["systemctl enable qemu-guest-agent; systemctl start qemu-guest-agent; true"],
        },
        "meta-data": {
            "instance-id": instance,
            "local-hostname": "nasty_1.example",
            "cloud-name": "kowabunga",
            "region": LINE,
            "availability-zone": LINE,
            "kowabunga_local_ip": network["ethernets"][card]["addresses"][0].partition("/")[0],
        },
        "network-config": {"version": 2, "ethernets": {card: network["ethernets"][card]}},
    }  # fmt: skip


@carried(
    expected="the guest reads the very texts from its seed, and not a key more", where=Where.GUEST
)
async def test_a_guest_reads_the_very_texts(
    cloud: RealCloud, instance: str, tmp_path: Path
) -> None:
    own, library = Path(__file__).parent, Path(yaml.__file__).parent
    async with python_guest(
        tmp_path,
        program=f"{own.name}.{Path(seed_program.__file__).stem}",
        packages=[own, library],
        commands=(),
        modules=("virtio_pci", "virtio_scsi", "sr_mod", "isofs"),
        medium=_seed(cloud, instance),
    ) as guest:
        seen = await guest.report()
    assert seen["label"] == "cidata"
    assert seen["first_line"] == "#cloud-config"
    assert seen["files"] == _expected(cloud, instance, seen["files"])


@carried(expected="a terminal gets one printable line for each; JSON is exact")
def test_the_command_line_shows_them_harmlessly(
    cloud: RealCloud, instance: str, kowabunga: Callable[..., str]
) -> None:
    for noun in NOUNS:
        wide = kowabunga(noun, "list", "-o", "wide")
        assert len(wide.splitlines()) == 2, wide
        (name,) = kowabunga(noun, "list", "-o", "name").splitlines()
        kowabunga(noun, "show", name)
        (shown,) = json.loads(kowabunga(noun, "list", "-o", "json"))
        (same,) = yaml.safe_load(kowabunga(noun, "list", "-o", "yaml"))
        for text in ("name", "description"):
            assert shown.get(text) == same.get(text)
        if noun != "agent":  # which is another API's
            assert shown == same == cloud.objects(noun)[0]
    for words in (("state", "verify"), ("operation", "list"), ("alarm", "list")):
        kowabunga(*words)
    del instance


@pytest.fixture
def kowabunga(
    cloud: RealCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command as root does at the node, and return what a terminal would show."""
    monkeypatch.setenv("KOWABUNGA_SOCKET", str(cloud.state / "run" / "api.sock"))
    monkeypatch.setenv("COLUMNS", "2000")

    def call(*words: str) -> str:
        capsys.readouterr()
        code = run(list(words))
        shown = capsys.readouterr()
        assert code == 0, (words, shown.err)
        assert_harmless(shown.out)
        assert_harmless(shown.err)
        return shown.out

    return call


def assert_harmless(shown: str) -> None:
    """Nothing in it moves a cursor, reorders or hides text."""
    assert all(line.isprintable() for line in shown.split("\n")), ascii(shown)


@carried(expected="logs have one line of JSON for each event")
def test_logs_have_a_line_for_each_event(cloud: RealCloud, instance: str) -> None:
    with cloud.client() as client:
        for text in (TEXT, "\x1b[2J\x07\r\nforged: line"):
            answer = client.put(f"/api/v1/region/{cloud.place.region}", json={"name": text})
            assert answer.status_code == 422
        client.get("/api/v1/kompute/%1b%5b2J%0d%0a{}%e2%80%ae")
    for process in (cloud.kahuna, cloud.kaktus):
        lines = process.log.read_text(encoding="ascii").splitlines()
        events = [json.loads(line) for line in lines]
        assert all({"event", "level", "timestamp"} <= event.keys() for event in events)
    assert cloud.get(f"/instance/{instance}")["memory"] == 128 * MIB
