"""Keys of users: the contract's route issues one, and no answer of it may carry it."""

from litestar import Controller, delete, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.api.ext.keys import NewKey
from appliance.api.guards import allow
from appliance.api.services import Services
from appliance.model.access import Allow


class UserKeyController(Controller):
    path = "/users/{user_id:str}/key"
    tags = ("user",)
    opt = allow(Allow.SELF)

    @post(operation_id="IssueUserKey", status_code=200)
    async def issue_key(
        self, services: NamedDependency[Services], user_id: FromPath[str]
    ) -> NewKey:
        """Issue a new key, which ends the one before it, and show it this once."""
        await services.users.issue_key(user_id)
        return NewKey((await services.users.collect_key(user_id)).reveal_text())

    @post("/collect", operation_id="CollectUserKey", status_code=200)
    async def collect_key(
        self, services: NamedDependency[Services], user_id: FromPath[str]
    ) -> NewKey:
        """Hand over the key that waits since it was issued, once."""
        return NewKey((await services.users.collect_key(user_id)).reveal_text())

    @delete(operation_id="RevokeUserKey", status_code=204)
    async def revoke_key(self, services: NamedDependency[Services], user_id: FromPath[str]) -> None:
        """End the key; what is sent with it is refused from the next request on."""
        await services.users.revoke_key(user_id)
