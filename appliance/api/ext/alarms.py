"""Alarms: what the owner of the cluster should look at."""

from typing import Annotated

from litestar import Controller, delete, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.services.alarms import Alarm


class AlarmController(Controller):
    path = "/alarms"
    tags = ("alarm",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="ListAlarms")
    async def list_alarms(self, services: NamedDependency[Services]) -> list[Alarm]:
        """Return the standing alarms, the latest first."""
        return await services.alarms.list()

    @delete(operation_id="ClearAlarm", status_code=204)
    async def clear_alarm(
        self,
        services: NamedDependency[Services],
        kind: Annotated[str, QueryParameter(description="The alarm's kind.")],
        target: Annotated[str, QueryParameter(description='What it is about, "kind/id".')],
    ) -> None:
        """Take an alarm away; it comes back if its cause is still there."""
        await services.alarms.clear(kind, target)
