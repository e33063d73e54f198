"""How a step gets at secrets: by name, never by way of its arguments or outputs, which are rows."""

from typing import Protocol

from appliance.core.errors import KowabungaError
from appliance.core.secret import Secret
from appliance.store.base import Statement


class Vault(Protocol):
    async def find(self, owner: str, name: str) -> Secret | None:
        """Return a secret, or None when there is none.

        Raises:
            Corrupt: the row was tampered with.
            NotFound: this node cannot get its data key.
        """
        ...

    async def ensure(self, owner: str, name: str, fresh: Secret, *, while_: Statement) -> Secret:
        """Return the secret that is there; without one, keep and return `fresh`.

        Of several callers at once all get the same. `while_` selects 1 as long as the owner exists.

        Raises:
            Stale: the owner is gone.
            Corrupt: as `find`.
            NotFound: as `find`.
        """
        ...


class NoVault:
    """For an engine none of whose kinds needs a secret."""

    async def find(self, owner: str, name: str) -> Secret | None:
        raise KowabungaError(f"no secret of {owner} is to be had here: {name}")

    async def ensure(self, owner: str, name: str, fresh: Secret, *, while_: Statement) -> Secret:
        del fresh, while_
        raise KowabungaError(f"no secret of {owner} is to be had here: {name}")
