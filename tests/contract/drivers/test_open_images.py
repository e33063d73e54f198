"""What a storage driver refuses while a running domain has an image open."""

import pytest

from appliance.core.errors import Busy
from appliance.model.domain_state import Power
from tests.contract.drivers.rig import Rig, some_id


async def test_a_volume_is_restored_only_while_no_domain_runs_on_it(rig: Rig) -> None:
    spec = await rig.spec()
    volume_id, snapshot_id = spec.disks[0].image_id, some_id()
    await rig.storage.ensure_snapshot(rig.storage_pool, volume_id, snapshot_id)
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    assert await rig.storage.list_snapshots(rig.storage_pool, volume_id) == [snapshot_id]
    with pytest.raises(Busy):
        await rig.storage.restore_snapshot(rig.storage_pool, volume_id, snapshot_id)

    await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
    await rig.storage.restore_snapshot(rig.storage_pool, volume_id, snapshot_id)


async def test_a_snapshot_of_an_open_volume_is_made_where_the_pool_can(rig: Rig) -> None:
    spec = await rig.spec()
    volume_id, snapshot_id = spec.disks[0].image_id, some_id()
    await rig.compute.ensure_domain(spec)
    await rig.compute.ensure_power(spec.domain_id, Power.RUNNING)
    if not rig.grows_open_images:
        with pytest.raises(Busy):
            await rig.storage.ensure_snapshot(rig.storage_pool, volume_id, snapshot_id)
        await rig.compute.ensure_power(spec.domain_id, Power.STOPPED)
    await rig.storage.ensure_snapshot(rig.storage_pool, volume_id, snapshot_id)
    assert await rig.storage.list_snapshots(rig.storage_pool, volume_id) == [snapshot_id]
