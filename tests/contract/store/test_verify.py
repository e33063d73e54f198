from appliance.store.base import Statement
from appliance.store.migrate import shipped_migrations
from appliance.store.verify import verify
from tests.contract.store.conftest import OpenStore


async def test_a_sound_state_has_no_findings(open_store: OpenStore) -> None:
    async with open_store(shipped_migrations()) as store:
        await store.batch([
            Statement("INSERT INTO target_fence (target, fence) VALUES ('agent/1', 1)")
        ])  # fmt: skip
        assert await verify(store) == []


async def test_a_guard_that_was_not_cleared_is_found(open_store: OpenStore) -> None:
    async with open_store(shipped_migrations()) as store:
        await store.batch([Statement("INSERT INTO txn_guard (ok) VALUES (1)")])
        assert await verify(store) == [
            "txn_guard holds 1 rows, and every batch that ends leaves none"
        ]
