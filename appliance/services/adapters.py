"""Adapters: cards with addresses that nobody else has."""

from typing import Final

import msgspec

from appliance.core.clock import Clock
from appliance.core.errors import (
    Conflict,
    InsufficientResource,
    Invalid,
    KowabungaError,
    Stale,
    Unavailable,
)
from appliance.core.ids import new_id
from appliance.resources.adapter import (
    ADAPTERS,
    Adapter,
    check_adapter,
    delete_adapter,
    insert_adapter,
    place_of,
    unchanged,
    update_adapter,
    who_has,
    who_has_mac,
)
from appliance.resources.allocation import exhausted
from appliance.resources.fields import given, merged, with_defaults
from appliance.resources.ipv4 import format_address
from appliance.resources.names import quoted
from appliance.resources.subnet import SUBNETS
from appliance.services.catalog import TRIES, Catalog
from appliance.store.base import Consistency, Statement, Store, fetch_one, guard

NO_ADDRESS_LEFT: Final = "adapter_address.address"


class _Place(msgspec.Struct, frozen=True):
    subnet_id: str
    instance_id: str | None
    kompute_id: str | None


class Adapters:
    """Reading and listing are the catalog's."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock) -> None:
        self._store = store
        self._catalog = catalog
        self._clock = clock

    async def create(self, subnet_id: str, sent: Adapter, *, assign: bool) -> Adapter:
        """Make an adapter; `assign` gives it the lowest free address if it was sent without any.

        Raises:
            NotFound: the subnet does not exist.
            Invalid: a rule is broken, or an address or the MAC is another's.
            Conflict: the name is taken.
            InsufficientResource: the subnet has no free address.
        """
        wanted = with_defaults(sent)
        adapter_id = new_id()
        for _ in range(TRIES):
            subnet_unchanged = await self._check(subnet_id, wanted)
            insert = insert_adapter(
                adapter_id,
                subnet_id,
                wanted.name,
                self._clock.now_ms(),
                description=given(wanted.description, ""),
                reserved=given(wanted.reserved, otherwise=False),
                mac=given(wanted.mac, ""),
                addresses=given(wanted.addresses, []),
                automatic=assign and not wanted.addresses,
            )
            try:
                await self._store.batch([*subnet_unchanged, *insert])
            except Stale:
                continue
            except Conflict as conflict:
                await self._catalog.refuse_taken(ADAPTERS, "", wanted)
                raise await self._explained(adapter_id, subnet_id, wanted, conflict) from conflict
            return await self._catalog.get(ADAPTERS, adapter_id)
        raise Unavailable(f"subnet {subnet_id} is being changed by many at once")

    async def update(self, adapter_id: str, sent: Adapter) -> Adapter:
        """Replace what was sent, keep the rest; an empty MAC keeps the one that was made.

        Raises:
            NotFound: it does not exist.
            Invalid: a rule is broken, the name, an address or the MAC is another's, or the machine
                that has it knows it by what would change.
            Conflict: a Kompute owns it.
        """
        for _ in range(TRIES):
            stored, generation = await self._catalog.read(
                ADAPTERS, adapter_id, Consistency.LINEARIZABLE
            )
            wanted = merged(stored, sent)
            if not wanted.mac:
                wanted = msgspec.structs.replace(wanted, mac=stored.mac)
            if wanted == stored:
                return stored
            place = await self._place(adapter_id)
            _refuse_owned(adapter_id, place)
            _check_attached(adapter_id, place, stored, wanted)
            subnet_unchanged = await self._check(place.subnet_id, wanted)
            adapter_unchanged = guard(unchanged(adapter_id, generation, place.instance_id))
            update = update_adapter(adapter_id, wanted, self._clock.now_ms())
            try:
                await self._store.batch([*subnet_unchanged, *adapter_unchanged, *update])
            except Stale:
                continue
            except Conflict as conflict:
                error = await self._explained(adapter_id, place.subnet_id, wanted, conflict)
                if isinstance(error, Conflict):
                    error = Invalid(error.detail, field="name")
                raise error from conflict
            return await self._catalog.get(ADAPTERS, adapter_id)
        raise Unavailable(f"adapter {adapter_id} is being changed by many at once")

    async def delete(self, adapter_id: str) -> None:
        """Remove an adapter that no machine has.

        Raises:
            NotFound: it does not exist.
            Conflict: an instance has it, or a Kompute owns it.
        """
        for _ in range(TRIES):
            _, generation = await self._catalog.read(ADAPTERS, adapter_id, Consistency.LINEARIZABLE)
            place = await self._place(adapter_id)
            _refuse_owned(adapter_id, place)
            if place.instance_id is not None:
                raise Conflict(
                    f"adapter {adapter_id} is in use by instance {place.instance_id}",
                    hint="take it from the instance first",
                )
            free = guard(unchanged(adapter_id, generation, None))
            try:
                await self._store.batch([*free, delete_adapter(adapter_id)])
            except Stale:
                continue
            return
        raise Unavailable(f"adapter {adapter_id} is being changed by many at once")

    async def _check(self, subnet_id: str, wanted: Adapter) -> tuple[Statement, Statement]:
        """Check an adapter against its subnet; return what lets a batch apply while that holds."""
        subnet, generation = await self._catalog.read(SUBNETS, subnet_id, Consistency.LINEARIZABLE)
        check_adapter(wanted, subnet)
        return guard(SUBNETS.guard(subnet_id, generation))

    async def _place(self, adapter_id: str) -> _Place:
        return await fetch_one(
            self._store,
            _Place,
            place_of(adapter_id),
            f"adapter {adapter_id}",
            Consistency.LINEARIZABLE,
        )

    async def _explained(
        self, adapter_id: str, subnet_id: str, wanted: Adapter, conflict: Conflict
    ) -> KowabungaError:
        """Return the conflict in the words of the user who met it."""
        if exhausted(conflict, NO_ADDRESS_LEFT):
            return no_address_left(subnet_id)
        addresses = given(wanted.addresses, [])
        query = who_has(subnet_id, addresses, adapter_id)
        if rows := await self._store.query(query, Consistency.LINEARIZABLE):
            address = format_address(int(rows[0]["address"] or 0))
            return Invalid(
                f"address {address} belongs to adapter {quoted(str(rows[0]['name']))},"
                f" {rows[0]['id']}",
                field=f"addresses[{addresses.index(address)}]",
            )
        mac = given(wanted.mac, "")
        query = who_has_mac(mac, adapter_id)
        if not wanted.reserved and (rows := await self._store.query(query)):
            return Invalid(
                f"mac {mac} belongs to adapter {quoted(str(rows[0]['name']))}, {rows[0]['id']}",
                field="mac",
                hint="leave it out to have one made",
            )
        return await self._catalog.taken(ADAPTERS, "", wanted, conflict)


def no_address_left(subnet_id: str) -> InsufficientResource:
    return InsufficientResource(
        f"subnet {subnet_id} has no free address",
        hint="remove adapters, or make its reserved ranges smaller",
    )


def _refuse_owned(adapter_id: str, place: _Place) -> None:
    if place.kompute_id is not None:
        raise Conflict(
            f"adapter {adapter_id} is owned by kompute {place.kompute_id}",
            hint="change or remove the Kompute",
        )


def _check_attached(adapter_id: str, place: _Place, stored: Adapter, wanted: Adapter) -> None:
    # The host lets only this MAC and these addresses out of the machine.
    if place.instance_id is not None and (
        wanted.mac != stored.mac or wanted.addresses != stored.addresses
    ):
        raise Invalid(
            f"mac and addresses of adapter {adapter_id} cannot change while instance"
            f" {place.instance_id} has it",
            hint="take it from the instance first",
        )
