"""Rotation of the data key, as a durable operation of three steps that may run any number of times.

Whoever dies where, the next worker goes on: the new key's file is durable before its row, rows
are sealed anew one page at a time as they were read, and the old key goes only when the database
itself says that nothing refers to it.
"""

from typing import Final

import msgspec

from appliance.core.errors import Unavailable
from appliance.model.principal import Principal
from appliance.model.target import target
from appliance.operations.step import OnFailure, OperationKind, Step, StepContext, Submission
from appliance.services.keyring import Keyring
from appliance.services.secrets import Secrets

_BUDGET_S: Final = 600.0
_ROUNDS: Final = 5  # each beyond the first means that a secret was written with a retiring key


class RotateDataKey(msgspec.Struct, frozen=True):
    """Arguments: the key to replace. Naming it makes a repeated operation harmless."""

    data_key_id: str


class Rotation:
    def __init__(self, keyring: Keyring, secrets: Secrets) -> None:
        self._keyring = keyring
        self._secrets = secrets
        self.kind: Final = OperationKind(
            name="data_key_rotate",
            arguments=RotateDataKey,
            steps=(
                Step("activate", self._activate),
                Step("reseal", self._reseal),
                Step("retire", self._retire),
            ),
            on_failure=OnFailure.LEAVE,  # half a rotation is a sound state; retry finishes it
            budget_s=_BUDGET_S,
        )

    async def run(self) -> None:
        """Remove what rotations leave behind on this member, for ever."""
        await self._keyring.keep_purged()

    async def submission(self, by: Principal) -> Submission[RotateDataKey]:
        """Return the operation that replaces the key which is active now."""
        active = await self._keyring.active()
        return Submission(
            kind=self.kind,
            arguments=RotateDataKey(active.id),
            targets=(target("data_key", active.id),),
            principal=str(by),
        )

    async def activate(self, old_id: str) -> None:
        await self._keyring.replace_active(old_id)

    async def reseal(self) -> None:
        await self._secrets.reseal()

    async def retire(self) -> None:
        """Forget every retiring key, sealing anew what was written with one meanwhile.

        Raises:
            Unavailable: writers with an old key kept coming; try again.
            Corrupt: a secret cannot be read, so its key must stay.
        """
        for _ in range(_ROUNDS):
            if not await self._keyring.retire_unused():
                return
            await self._secrets.reseal()
        raise Unavailable("secrets were still being written with a retiring data key")

    async def _activate(self, context: StepContext[RotateDataKey]) -> None:
        await self.activate(context.arguments.data_key_id)

    async def _reseal(self, _: StepContext[RotateDataKey]) -> None:
        await self.reseal()

    async def _retire(self, _: StepContext[RotateDataKey]) -> None:
        await self.retire()
