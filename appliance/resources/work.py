"""What operations on images and domains work on, and through whom.

The arguments of every such operation name the object and the agents, never a value: values are
read from the rows by each step, so that a late retry applies what is wanted then.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from appliance.model.storage import LocalPool, RbdPool, StoragePoolRef
from appliance.operations.step import StepContext
from appliance.resources.storage_pool import LOCAL, first_monitor
from appliance.store.base import Row, Statement

S = TypeVar("S", bound=msgspec.Struct)

# How long trouble is met by trying again. Below the clients' deadlines, so that most of them hear
# how it ended; the create of a template takes as long as its download.
CREATE_BUDGET_S: Final = 900.0
CHANGE_BUDGET_S: Final = 270.0


class Work(msgspec.Struct, frozen=True, omit_defaults=True):
    """The arguments of an operation.

    The agents are chosen once. A storage pool has several: if an undo went another way than the
    command that it undoes, no fence would stop that command from coming late.

    Attributes:
        id: of the object.
        instance_id: of the instance whose domain is worked on.
        host_agent: of the Kaktus that this domain is on.
        storage_agents: by the id of the storage pool.
        action: what to do to the guest, for those operations that have a choice.
    """

    id: str
    instance_id: str = ""
    host_agent: str = ""
    storage_agents: dict[str, str] = {}
    action: str = ""


class PoolPlace(msgspec.Struct, frozen=True):
    """Where a storage pool is, as its row says."""

    storage_pool_id: str
    pool: str
    ceph_address: str
    ceph_port: int

    @property
    def ref(self) -> StoragePoolRef:
        if self.ceph_address.startswith(LOCAL):
            return LocalPool(directory=self.ceph_address.removeprefix(LOCAL))
        address, port = first_monitor(self.ceph_address, self.ceph_port)
        return RbdPool(pool=self.pool, monitor_address=address, monitor_port=port)

    @property
    def monitors(self) -> frozenset[tuple[str, int]]:
        """The monitors of a pool on Ceph, by which two rows of one cluster are known."""
        addresses = () if self.ceph_address.startswith(LOCAL) else self.ceph_address.split(",")
        return frozenset(first_monitor(address, self.ceph_port) for address in addresses)


async def read_rows(context: StepContext[Work], kind: type[S], statement: Statement) -> list[S]:
    return convert_rows(await context.query(statement), kind)


def convert_rows(rows: Sequence[Row], kind: type[S]) -> list[S]:
    return [msgspec.convert(row, kind, strict=False) for row in rows]
