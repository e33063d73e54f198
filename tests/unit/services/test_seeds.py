"""Seeds on the real engine, store and dispatchers, before simulated nodes."""

import base64
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml

from appliance.core.errors import Conflict, Invalid, KowabungaError
from appliance.core.secret import Secret
from appliance.core.unix_password import hash_unix_password
from appliance.drivers.fake.node import SimulatedNode
from appliance.model.principal import MASTER
from appliance.model.storage import ImagePurpose, ObservedImage, RbdPool, SeedSpec, seed_digest
from appliance.operations.operation import Origin
from appliance.resources.instance import INSTANCES
from appliance.resources.kompute import Kompute
from appliance.resources.project import ROOT_PASSWORD, secret_owner
from appliance.resources.seed import SeedMaker, SeedRow, seed_row
from appliance.resources.storage_pool import STORAGE_POOLS
from appliance.resources.volume import Volume, VolumeType
from appliance.services.verify import Verdict, verify_world
from appliance.store.base import Statement, fetch
from tests.support.cloud import ASKED, GIB, Cloud, open_cloud
from tests.support.logs import captured_logs

POOL = RbdPool(pool="ssd", monitor_address="ceph.example", monitor_port=3300)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f admin"


@pytest_asyncio.fixture
async def cloud(tmp_path: Path) -> AsyncGenerator[Cloud]:
    async with open_cloud(tmp_path, hosts=1) as cloud:
        yield cloud


def node(cloud: Cloud) -> SimulatedNode:
    return cloud.nodes[cloud.agents[0]].node


async def media(cloud: Cloud, pool: RbdPool = POOL) -> list[ObservedImage]:
    images = await node(cloud).storage.list_images(pool)
    return [image for image in images if image.purpose is ImagePurpose.SEED]


async def instance_of(cloud: Cloud, kompute: Kompute) -> str:
    found = await cloud.value("SELECT id FROM instance WHERE kompute_id = ?", str(kompute.id))
    return str(found)


async def seed(cloud: Cloud, instance_id: str) -> SeedSpec:
    """Return what the instance's seed should be; fail unless the medium in the pool is that."""
    (row,) = await fetch(cloud.store, SeedRow, seed_row(instance_id))
    made = await SeedMaker(cloud.store.query, cloud.secrets).find(row)
    assert made is not None
    image = await node(cloud).storage.get_image(row.ref, instance_id)
    assert image.seed_sha256 == seed_digest(made)
    return made


def load(text: str) -> Any:  # noqa: ANN401 - YAML
    return yaml.safe_load(text)


async def look(cloud: Cloud, agent: int = 0) -> int:
    """Look at a node, wait for what that starts, and return how many operations it was."""
    before = {operation.id for operation in await cloud.engine.list()}
    await cloud.compute.reconciler.look(cloud.agents[agent])
    started = [one for one in await cloud.engine.list() if one.id not in before]
    for operation in started:
        assert operation.origin is Origin.RECONCILE
        await cloud.engine.wait(operation.id, 60)
    return len(started)


async def verify(cloud: Cloud) -> Verdict:
    return await verify_world(cloud.store, cloud.nodes, cloud.compute.seeds)


async def set_password(cloud: Cloud, password: str) -> None:
    await cloud.secrets.put(secret_owner(cloud.project), ROOT_PASSWORD, Secret(password))


async def secret_of(cloud: Cloud, instance_id: str) -> str:
    (secret,) = re.findall(r"kwg_[A-Za-z0-9_-]{43}", (await seed(cloud, instance_id)).user_data)
    return str(secret)


# --- made


async def test_a_machine_gets_its_seed_before_it_is_defined(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web", public=True)
    instance_id = await instance_of(cloud, made)
    assert [image.image_id for image in await media(cloud)] == [instance_id]
    told = await seed(cloud, instance_id)
    assert load(told.meta_data) | {"instance-id": instance_id} == load(told.meta_data)
    assert load(told.user_data)["hostname"] == "web"
    assert (await verify(cloud)).is_clean
    methods = cloud.nodes.methods()
    assert methods.index("storage.ensure_seed") < methods.index("compute.ensure_domain")


async def test_a_running_guest_has_its_seed_open(cloud: Cloud) -> None:
    made = await cloud.add_kompute("web")
    with pytest.raises(KowabungaError, match="open"):
        await node(cloud).storage.ensure_image_absent(POOL, await instance_of(cloud, made))


async def test_what_the_project_says_goes_before_what_the_cluster_says(cloud: Cloud) -> None:
    await cloud.settings.set("bootstrap.user", "ops", MASTER)
    await cloud.settings.set("bootstrap.public_key", KEY, MASTER)
    await cloud.settings.set("public_url", "https://kowabunga.example.org", MASTER)
    first = await instance_of(cloud, await cloud.add_kompute("first"))
    told = await seed(cloud, first)
    assert load(told.user_data)["users"][1]["name"] == "ops"
    assert load(told.user_data)["users"][1]["ssh_authorized_keys"] == [KEY]
    uri = "https://kowabunga.example.org/latest/meta-data"
    assert load(told.meta_data)["kowabunga_metadata_uri"] == uri
    own = KEY.replace("admin", "project")
    await cloud.store.batch(
        [Statement("UPDATE project SET bootstrap_user = 'me', bootstrap_pubkey = ?", (own + "\n",))]
    )
    second = await instance_of(cloud, await cloud.add_kompute("second"))
    service = load((await seed(cloud, second)).user_data)["users"][1]
    assert (service["name"], service["ssh_authorized_keys"]) == ("me", [own])


async def test_names_and_texts_of_people_arrive_as_they_are(cloud: Cloud) -> None:
    hostile = "a: b # {c} [d] 'e' \"f\" & *g | > % @ ` \\n"
    await cloud.store.batch(
        [
            Statement("UPDATE region SET name = ?", (hostile + "1",)),
            Statement("UPDATE zone SET name = ?", (hostile + "2",)),
            Statement("UPDATE project SET domain = 'acme.local.', description = ?", ("x\n: y",)),
        ]
    )
    await set_password(cloud, hostile)
    made = await cloud.add_kompute("Web_1.internal")
    told = await seed(cloud, await instance_of(cloud, made))
    meta, user = load(told.meta_data), load(told.user_data)
    assert (meta["region"], meta["availability-zone"]) == (hostile + "1", hostile + "2")
    assert user["fqdn"] == "Web_1.internal.acme.local"
    hashed = str(user["users"][0]["hashed_passwd"])
    assert hashed == hash_unix_password(Secret(hostile), hashed.split("$")[2])


async def test_the_default_route_leads_to_the_projects_gateway_in_the_zone(cloud: Cloud) -> None:
    await cloud.store.batch(
        [
            Statement(
                "INSERT INTO subnet_range (subnet_id, purpose, position, first, last)"
                " VALUES (?, 'gw_pool', 0, ?, ?)",
                (cloud.private_subnet, 0x0A0100FA, 0x0A0100FC),
            ),
            Statement("UPDATE subnet SET extra_routes = '[\"10.9.0.0/16\"]', dns = '10.1.0.53'"),
        ]
    )
    made = await cloud.add_kompute("web", public=True)
    public, private = load((await seed(cloud, await instance_of(cloud, made))).network_config)[
        "ethernets"
    ].values()
    assert public["routes"] == [
        {"to": "10.9.0.0/16", "via": "203.0.113.1"},
        {"to": "0.0.0.0/0", "via": "203.0.113.1", "metric": 100},
    ]
    assert private["routes"] == [
        {"to": "10.9.0.0/16", "via": "10.1.0.1"},
        {"to": "0.0.0.0/0", "via": "10.1.0.250", "metric": 200},
    ]
    assert private["addresses"] == [f"{made.ip}/24"]
    assert private["nameservers"] == {"addresses": ["10.1.0.53"]}


async def test_a_windows_guest_gets_what_cloudbase_init_runs(cloud: Cloud) -> None:
    await cloud.store.batch([Statement("UPDATE template SET os = 'windows'")])
    await cloud.settings.set("cloud_init.windows", "#ps1\nWrite-Output hello\n", MASTER)
    await set_password(cloud, "s3cret")
    told = await seed(cloud, await instance_of(cloud, await cloud.add_kompute("web")))
    (encoded,) = re.findall(r"FromBase64String\('([^']+)'\)", told.user_data)
    facts = msgspec.json.decode(base64.b64decode(encoded))
    assert (facts["password"], facts["fragment"]) == ("s3cret", "#ps1\nWrite-Output hello\n")
    assert load(told.network_config)["version"] == 1


# --- secrets


async def test_each_guest_has_a_secret_that_is_sealed_at_rest(cloud: Cloud, tmp_path: Path) -> None:
    with captured_logs() as logs:
        await set_password(cloud, "the-password-of-root")
        first = await instance_of(cloud, await cloud.add_kompute("first"))
        second = await cloud.add_instance("second")
        secrets = [await secret_of(cloud, first), await secret_of(cloud, second)]
        assert len(set(secrets)) == 2
        hashed = load((await seed(cloud, first)).user_data)["users"][0]["hashed_passwd"]
    told = [*secrets, hashed, "the-password-of-root"]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*.db*"))
    stored += b"".join(path.read_bytes() for path in tmp_path.rglob("*.fences*"))
    assert first.encode() in stored
    for secret in told:
        assert secret.encode() not in stored
        assert secret not in logs.getvalue()


async def test_a_secret_is_the_same_as_long_as_the_guest_is(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    before = await secret_of(cloud, instance_id)
    await rename(cloud, instance_id, "other")
    assert await look(cloud) == 1
    assert await secret_of(cloud, instance_id) == before


async def rename(cloud: Cloud, instance_id: str, name: str) -> None:
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    wanted = msgspec.structs.replace(stored, name=name)
    await (await cloud.compute.instances.update(ASKED, instance_id, wanted)).outcome()


async def give_system(cloud: Cloud, instance_id: str, volume_id: str) -> None:
    stored = await cloud.catalog.get(INSTANCES, instance_id)
    wanted = msgspec.structs.replace(stored, volumes=[volume_id])
    await (await cloud.compute.instances.update(ASKED, instance_id, wanted)).outcome()


async def test_another_system_is_another_guest_with_another_secret(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    old = str(await cloud.value("SELECT id FROM volume"))
    before = await secret_of(cloud, instance_id)
    new = await cloud.add_volume("rebuilt")
    await give_system(cloud, instance_id, new)
    assert await secret_of(cloud, instance_id) != before
    await give_system(cloud, instance_id, old)
    assert await secret_of(cloud, instance_id) == before
    assert (await verify(cloud)).is_clean


async def test_a_seed_stays_in_its_pool_when_the_system_goes_to_another(cloud: Cloud) -> None:
    instance_id = await cloud.add_instance("web")
    other = await cloud.add_pool("hdd", list(cloud.agents), "other.example")
    await cloud.add_template(other, "other")
    await cloud.store.batch([Statement("UPDATE template SET is_default = 1")])
    begun = await cloud.compute.volumes.create(
        ASKED,
        cloud.project,
        cloud.region,
        Volume(name="elsewhere", type=VolumeType.OS, size=GIB),
        pool_id=other,
        template_id=None,
    )
    await give_system(cloud, instance_id, str((await begun.outcome()).id))
    assert [image.image_id for image in await media(cloud)] == [instance_id]
    assert (await verify(cloud)).is_clean
    await (await cloud.compute.instances.delete(ASKED, instance_id)).outcome()
    assert await media(cloud) == []


# --- rewritten


@pytest.mark.parametrize("change", ["project", "setting", "password", "subnet", "zone"])
async def test_what_a_seed_tells_is_kept_true(cloud: Cloud, change: str) -> None:
    made = await cloud.add_kompute("web")
    instance_id = await instance_of(cloud, made)
    before = seed_digest(await seed(cloud, instance_id))
    match change:
        case "project":
            await cloud.store.batch([Statement("UPDATE project SET bootstrap_pubkey = ?", (KEY,))])
        case "setting":
            await cloud.settings.set("cloud_init.linux", "timezone: Europe/Paris\n", MASTER)
        case "password":
            await set_password(cloud, "another")
        case "subnet":
            await cloud.store.batch([Statement("UPDATE subnet SET dns = '10.1.0.53'")])
        case _:
            await cloud.store.batch([Statement("UPDATE zone SET name = 'renamed'")])
    found = (await verify(cloud)).differences
    assert [each.target for each in found] == [f"instance/{instance_id}"]
    running = (await node(cloud).compute.list_domains())[0]
    assert await look(cloud) == 1
    assert seed_digest(await seed(cloud, instance_id)) != before
    assert (await verify(cloud)).is_clean
    assert await look(cloud) == 0
    # The guest goes on as it is: it finds the new medium when it starts anew.
    assert (await node(cloud).compute.list_domains())[0] == running


@pytest.mark.parametrize("kind", ["kompute", "instance"])
async def test_a_seed_that_is_lost_or_wrong_is_made_again(cloud: Cloud, kind: str) -> None:
    if kind == "kompute":
        instance_id = await instance_of(cloud, await cloud.add_kompute("web"))
    else:
        instance_id = await cloud.add_instance("web")
    wrong = SeedSpec(image_id=instance_id, user_data="", meta_data="", network_config="")
    await node(cloud).storage.ensure_seed(POOL, wrong)
    assert [each.detail for each in (await verify(cloud)).differences] == [
        "its seed tells something else than it should"
    ]
    assert await look(cloud) == 1
    await seed(cloud, instance_id)
    await node(cloud).compute.ensure_domain_absent(instance_id)
    await node(cloud).storage.ensure_image_absent(POOL, instance_id)
    assert "its seed is not in its pool" in [
        each.detail for each in (await verify(cloud)).differences
    ]
    assert await look(cloud) >= 1
    await seed(cloud, instance_id)
    assert (await verify(cloud)).is_clean
    assert [alarm.kind for alarm in await cloud.alarms.list()] == []


async def test_a_seed_that_cannot_be_made_hides_no_other_trouble(cloud: Cloud) -> None:
    await cloud.add_kompute("web")
    volume = await cloud.add_volume("data")
    await node(cloud).storage.ensure_image_absent(POOL, volume)
    await cloud.store.batch([Statement("UPDATE secret SET sealed = 'AAAA'")])
    await look(cloud)
    assert [alarm.kind for alarm in await cloud.alarms.list()] == ["image_missing"]
    (unseen,) = (await verify(cloud)).unseen
    assert unseen.startswith(f"storage_pool/{cloud.pool}")


async def test_each_host_answers_for_the_seeds_of_its_own_guests(tmp_path: Path) -> None:
    async with open_cloud(tmp_path, hosts=2) as cloud:
        for name in ("one", "two"):
            await cloud.add_kompute(name)
        rows = await cloud.store.query(
            Statement(
                "SELECT instance.id, agent_id FROM instance JOIN kaktus_agent USING (kaktus_id)"
            )
        )
        hosts = {str(row["id"]): str(row["agent_id"]) for row in rows}
        assert len(set(hosts.values())) == 2
        for instance_id, agent_id in hosts.items():
            digests = await cloud.compute.seeds.digests(cloud.pool, of_agent=agent_id)
            assert digests.keys() == {instance_id}
        assert (await cloud.compute.seeds.digests(cloud.pool)).keys() == hosts.keys()


# --- gone


@pytest.mark.parametrize("kind", ["kompute", "instance"])
async def test_nothing_is_left_of_a_machine_that_goes(cloud: Cloud, kind: str) -> None:
    if kind == "kompute":
        made = await cloud.add_kompute("web")
        assert await cloud.count("secret") == 1
        await (await cloud.compute.komputes.delete(ASKED, str(made.id))).outcome()
    else:
        instance_id = await cloud.add_instance("web")
        assert await cloud.count("secret") == 1
        await (await cloud.compute.instances.delete(ASKED, instance_id)).outcome()
    assert await media(cloud) == []
    assert await cloud.count("secret") == 0
    await cloud.reconcile()  # the bridge goes too
    assert (await verify(cloud)).is_clean


async def test_nothing_is_left_of_a_machine_that_could_not_be_made(cloud: Cloud) -> None:
    node(cloud).faults.fail(method="compute.ensure_power", times=None)
    with pytest.raises(KowabungaError):
        await cloud.add_instance("web")
    assert await media(cloud) == []
    assert await cloud.count("secret") == 0


async def test_a_pool_with_a_seed_in_it_stays(cloud: Cloud) -> None:
    await cloud.add_instance("web")
    other = await cloud.add_pool("hdd", list(cloud.agents), "other.example")
    await cloud.store.batch([Statement("UPDATE instance SET seed_pool_id = ?", (other,))])
    with pytest.raises(Conflict, match="seeds"):
        await cloud.catalog.delete(STORAGE_POOLS, other)
    pool = await cloud.catalog.get(STORAGE_POOLS, other)
    moved = msgspec.structs.replace(pool, pool="elsewhere")
    with pytest.raises(Invalid, match="seeds"):
        await cloud.catalog.update(STORAGE_POOLS, other, moved)
