"""What the machines of a zone have in common: the processor that they see."""

from appliance.core.errors import Invalid, Stale, Unavailable
from appliance.resources.names import quoted
from appliance.resources.zone import (
    ZONES,
    check_cpu_model,
    common_cpu_models,
    cpu_model_of,
    hosts_without,
    set_cpu_model,
)
from appliance.services.catalog import TRIES, Catalog
from appliance.store.base import Consistency, Store, guard_none


class Zones:
    """Everything else of zones is the catalog's."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    async def get_cpu_model(self, zone_id: str) -> str | None:
        """Return the processor that x86_64 machines see; None: that of their host.

        Raises:
            NotFound: the zone does not exist.
        """
        await self._catalog.require(ZONES, zone_id)
        (row,) = await self._store.query(cpu_model_of(zone_id))
        model = row["model"]
        return None if model is None else str(model)

    async def list_cpu_models(self, zone_id: str) -> list[str]:
        """Return what all hosts of a zone that exists can give."""
        rows = await self._store.query(common_cpu_models(zone_id))
        return [str(row["model"]) for row in rows]

    async def set_cpu_model(self, zone_id: str, model: str | None) -> None:
        """Choose it for machines from their next start on; none is started or stopped for it.

        Raises:
            NotFound: the zone does not exist.
            Invalid: a host of the zone cannot give it.
        """
        await self._catalog.require(ZONES, zone_id)
        if model is not None:
            check_cpu_model(model)
        opened, closed = guard_none(hosts_without(zone_id, model))
        for _ in range(TRIES):
            try:
                await self._store.batch([opened, set_cpu_model(zone_id, model), closed])
            except Stale:
                await self._refuse(zone_id, str(model))
            else:
                return
        raise Unavailable(f"hosts of zone {zone_id} come and go")

    async def _refuse(self, zone_id: str, model: str) -> None:
        """Raise Invalid while a host has no such processor; by now all may have it."""
        rows = await self._store.query(hosts_without(zone_id, model), Consistency.LINEARIZABLE)
        if rows:
            names = ", ".join(quoted(str(row["name"])) for row in rows)
            possible = ", ".join(await self.list_cpu_models(zone_id)) or "none in common"
            raise Invalid(
                f"model {quoted(model)} is not to be had on Kaktus {names}",
                field="model",
                hint=f"all hosts of the zone have: {possible}; null is each host's own",
            )
