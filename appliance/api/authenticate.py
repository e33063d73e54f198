"""Who sent a request: by API key or bearer token on the network, by the kernel's word locally.

It finds out who somebody is, never what he may do.
"""

import os
from collections.abc import Iterable
from typing import Final

from appliance.api.asgi import Scope
from appliance.api.edge import Authenticate
from appliance.api.listener import PEER_UID
from appliance.model.principal import Principal, local_principal
from appliance.services.master_key import ApiKeys
from appliance.services.sessions import Sessions

_KEY: Final = b"x-api-key"
_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = "bearer"  # RFC 6750; the scheme's case does not matter


def by_credential(api_keys: ApiKeys, sessions: Sessions) -> Authenticate:
    """Return a way to authenticate by X-API-Key, or without one by a bearer token."""

    async def authenticate(scope: Scope) -> Principal | None:
        keys = _values(scope["headers"], _KEY)
        if keys:  # a wrong one is wrong, whatever else came with it
            return await api_keys.authenticate(keys[0]) if len(keys) == 1 else None
        token = bearer_token(scope["headers"])
        return None if token is None else await sessions.authenticate(token)

    return authenticate


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the bearer token among the headers, if there is exactly one Authorization."""
    values = _values(headers, _AUTHORIZATION)
    if len(values) != 1:
        return None  # none, or two that different readers could choose from
    scheme, _, token = values[0].partition(" ")
    return token.strip() or None if scheme.lower() == _BEARER else None


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


async def by_peer(scope: Scope) -> Principal | None:
    """Authenticate the process at the other end of the Unix socket: root, or our own user."""
    uid: int | None = scope.get("state", {}).get(PEER_UID)
    return local_principal(uid) if uid is not None and uid in {0, os.geteuid()} else None
