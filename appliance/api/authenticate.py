"""Who sent a request: by API key on the network, by the kernel's word on the local socket.

It finds out who somebody is, never what he may do.
"""

import os
from typing import Final

from appliance.api.asgi import Scope
from appliance.api.edge import Authenticate
from appliance.api.listener import PEER_UID
from appliance.model.principal import Principal, local_principal
from appliance.services.master_key import ApiKeys

_HEADER: Final = b"x-api-key"


def by_api_key(api_keys: ApiKeys) -> Authenticate:
    """Return a way to authenticate by the header X-API-Key."""

    async def authenticate(scope: Scope) -> Principal | None:
        keys = [value for name, value in scope["headers"] if name == _HEADER]
        if len(keys) != 1:
            return None  # none, or two that different readers could choose from
        return await api_keys.authenticate(keys[0].decode("latin-1"))

    return authenticate


async def by_peer(scope: Scope) -> Principal | None:
    """Authenticate the process at the other end of the Unix socket: root, or our own user."""
    uid: int | None = scope.get("state", {}).get(PEER_UID)
    return local_principal(uid) if uid is not None and uid in {0, os.geteuid()} else None
