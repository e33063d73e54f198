"""Which seeds should be where, for those who look whether they are."""

from appliance.model.storage import seed_digest
from appliance.resources.choice import pool_agents
from appliance.resources.seed import SeedMaker, SeedRow, seed_rows_of_pool
from appliance.services.secrets import Secrets
from appliance.store.base import Consistency, Row, Statement, Store, fetch


class Seeds:
    def __init__(self, store: Store, secrets: Secrets) -> None:
        self._store = store
        self._secrets = secrets

    async def digests(self, pool_id: str, *, of_agent: str | None = None) -> dict[str, str | None]:
        """Return the digest of each instance's seed in a storage pool, by the instance's id.

        None: it was never made. With an agent of the pool, only instances on its host are told, and
        those on hosts without an agent in the pool's list: a pool that many hosts share is looked
        at through each agent of that list.
        """
        asked = {str(row["agent_id"]) for row in await self._query(pool_agents(pool_id))}
        rows = await fetch(
            self._store, SeedRow, seed_rows_of_pool(pool_id), Consistency.LINEARIZABLE
        )
        maker = SeedMaker(self._query, self._secrets)
        found: dict[str, str | None] = {}
        for row in rows:
            hosted = row.list_agents()
            if of_agent is None or of_agent in hosted or asked.isdisjoint(hosted):
                seed = await maker.find(row)
                found[row.id] = None if seed is None else seed_digest(seed)
        return found

    async def _query(self, statement: Statement) -> list[Row]:
        return await self._store.query(statement, Consistency.LINEARIZABLE)
