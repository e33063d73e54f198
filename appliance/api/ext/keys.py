"""The master key, the data key, and the recovery export.

A new master key is shown once, in the answer to its rotation; it is stored only as a hash.
"""

from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from appliance.api.guards import allow
from appliance.api.requests import ApiRequest
from appliance.api.services import Services
from appliance.api.waiting import Answered, respond
from appliance.core.secret import Secret
from appliance.model.access import Allow
from appliance.model.principal import Principal
from appliance.services.master_key import MasterKeyState


class MasterKeyView(msgspec.Struct, frozen=True):
    state: MasterKeyState


class NewKey(msgspec.Struct, frozen=True):
    """Shown this once."""

    key: str


class Passphrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the export is sealed with; twelve characters at least."""

    passphrase: Annotated[str, msgspec.Meta(max_length=1024)]

    def __repr__(self) -> str:
        return "Passphrase(***)"


class KeyController(Controller):
    tags = ("key",)
    opt = allow(Allow.SUPER_ADMIN)

    @get("/master-key", operation_id="GetMasterKey")
    async def get_master_key(self, services: NamedDependency[Services]) -> MasterKeyView:
        """Tell whether the master key is in force."""
        return MasterKeyView(await services.master_key.state())

    @post("/master-key/rotate", operation_id="RotateMasterKey", status_code=200)
    async def rotate_master_key(self, services: NamedDependency[Services]) -> NewKey:
        """Replace the master key; the old one ends at once."""
        return NewKey((await services.master_key.rotate()).reveal_text())

    @post("/master-key/disable", operation_id="DisableMasterKey", status_code=204)
    async def disable_master_key(self, services: NamedDependency[Services]) -> None:
        """Refuse the master key until it is rotated."""
        await services.master_key.disable()

    @post("/secrets/rotate-data-key", operation_id="RotateDataKey", status_code=200)
    async def rotate_data_key(
        self,
        services: NamedDependency[Services],
        principal: NamedDependency[Principal],
        request: ApiRequest,
    ) -> Response[Answered]:
        """Seal every secret with a new data key; make a recovery export afterwards."""
        operation_id = await services.engine.submit(await services.rotation.submission(principal))
        return await respond(services, request, operation_id)

    @post(
        "/recovery/export",
        operation_id="ExportRecovery",
        status_code=200,
        media_type="application/octet-stream",
    )
    async def export_recovery(
        self, services: NamedDependency[Services], data: JSONBody[Passphrase]
    ) -> Response[bytes]:
        """Return the recovery export, sealed under the passphrase."""
        sealed = await services.recovery.export(Secret(data.passphrase))
        return Response(sealed, media_type="application/octet-stream")
