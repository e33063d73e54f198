"""Routes of users: who they are, how they log in, what they prove themselves with."""

from typing import Final

from appliance.api.authenticate import bearer_token
from appliance.api.guards import role_of
from appliance.api.v1.route import Call, Route
from appliance.api.v1.standard import create, delete, list_all, read
from appliance.core.secret import Secret
from appliance.model.access import Allow
from appliance.resources.user import USERS, Password, User, UserCredentials

_USER: Final = "/user/{userId}"


async def _log_in(call: Call) -> UserCredentials:
    sent: UserCredentials = call.body
    client = call.request.client
    token = await call.services.sessions.log_in(
        sent.email, Secret(sent.password), "local" if client is None else client.host
    )
    # The contract wants the password back; nobody needs it there.
    return UserCredentials(email=sent.email, password="", jwt=token)


async def _log_out(call: Call) -> None:
    token = bearer_token(call.request.scope["headers"])
    if token is not None:  # a key has no session to end
        await call.services.sessions.log_out(token)


async def _update(call: Call) -> User:
    return await call.services.users.update(call.last_id, call.body, by=role_of(call.request.scope))


async def _set_password(call: Call) -> None:
    await call.services.users.set_password(call.last_id, call.body.value)


USER_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/login",
        "Login",
        "user",
        _log_in,
        who=Allow.ANYONE,
        body=UserCredentials,
        answer=UserCredentials,
    ),
    Route("POST", "/logout", "Logout", "user", _log_out, who=Allow.AUTHENTICATED, status=204),
    list_all(USERS, "/user", "ListUsers", "user", who=Allow.SUPER_ADMIN),
    create(USERS, None, "/user", "CreateUser", "user", who=Allow.SUPER_ADMIN),
    read(USERS, _USER, "ReadUser", "user", who=Allow.SELF),
    Route("PUT", _USER, "UpdateUser", "user", _update, who=Allow.SELF, body=User, answer=User),
    delete(USERS, _USER, "DeleteUser", "user", who=Allow.SELF),
    Route(
        "PUT",
        _USER + "/password",
        "SetUserPassword",
        "user",
        _set_password,
        who=Allow.SELF,
        body=Password,
    ),
)
