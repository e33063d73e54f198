"""Settings of the whole cluster; the values of secret ones go in, and never come out."""

from typing import Any

import msgspec
from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow
from appliance.model.principal import Principal
from appliance.services.settings import SettingView


class SettingValue(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON value that the setting's rule allows, or the same as text."""

    value: Any  # judged by the rule of the setting


class SettingController(Controller):
    path = "/settings"
    tags = ("setting",)
    opt = allow(Allow.SUPER_ADMIN)

    @get(operation_id="ListSettings")
    async def list_settings(self, services: NamedDependency[Services]) -> list[SettingView]:
        """Return every setting, set or not."""
        return await services.settings.list()

    @get("/{name:str}", operation_id="GetSetting")
    async def get_setting(
        self, services: NamedDependency[Services], name: FromPath[str]
    ) -> SettingView:
        """Return one setting."""
        return await services.settings.view(name)

    @put("/{name:str}", operation_id="SetSetting")
    async def set_setting(
        self,
        services: NamedDependency[Services],
        principal: NamedDependency[Principal],
        name: FromPath[str],
        data: JSONBody[SettingValue],
    ) -> SettingView:
        """Set a setting."""
        return await services.settings.set(name, data.value, principal)

    @delete("/{name:str}", operation_id="UnsetSetting", status_code=200)
    async def unset_setting(
        self, services: NamedDependency[Services], name: FromPath[str]
    ) -> SettingView:
        """Return a setting to its default."""
        return await services.settings.unset(name)
