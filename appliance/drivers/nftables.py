"""What guests may send, and what of it this node hears: rules of nftables, as JSON to nft(8).

A card with addresses speaks IPv4 and ARP from these and its MAC address, and asks for a lease; all
else it sends is dropped, as are its answers of a DHCP server. That includes IPv6: no address of it
is ever given to a card, so whatever a guest made up there would be spoofed. Router advertisements
are thus dropped too. A router's card speaks anything from its own MAC address. No card sends
VLAN tags, which on an untagged vnet would reach other vnets, or control frames of switches. A
port "kw*" that no rule knows is mute. The node itself hears nothing from any guest and
forwards nothing.

The tables are ours alone, and each change replaces them as a whole in one transaction of the
kernel: no frame meets half a rule set, and whatever was there before is gone.
"""

import asyncio
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog

from appliance.core.clock import Clock
from appliance.core.command import run
from appliance.core.errors import DriverError, Invalid, KowabungaError, Unavailable
from appliance.model.network import BRIDGE_GROUP, PORT_PREFIX, PortSpec

_TIMEOUT_S: Final = 30.0
_LOOK_EVERY_S: Final = 30.0
_NAME: Final = "kowabunga"
_FIRST: Final = -300  # before any chain of others at the same hook
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

Json = dict[str, Any]  # Any: the schema of libnftables-json(5) nests freely
Ports = Mapping[str, tuple[PortSpec, ...]]

_ACCEPT: Final[Json] = {"accept": None}
_DROP: Final[tuple[Json, ...]] = ({"counter": None}, {"drop": None})
_PORT: Final[Json] = {"meta": {"key": "iifname"}}
_NOBODY: Final = "0.0.0.0"  # noqa: S104 - as a sender


class NftPortFilter:
    """Implements `PortFilter`; `replace_all` comes first, so that no domain is forgotten."""

    def __init__(self, *, clock: Clock, nft: str = "nft") -> None:
        """`nft`: the command."""
        self._clock = clock
        self._nft = nft
        self._lock = asyncio.Lock()  # one change after the other
        self._ports: dict[str, tuple[PortSpec, ...]] | None = None
        self._stamp = ""  # an empty chain of this name shows that the tables are the last we made

    async def ensure_ports(self, domain_id: str, ports: tuple[PortSpec, ...]) -> None:
        async with self._lock:
            await self._apply({**self._known(), domain_id: ports})

    async def ensure_ports_absent(self, domain_id: str) -> None:
        async with self._lock:
            known = self._known()
            await self._apply({key: ports for key, ports in known.items() if key != domain_id})

    async def replace_all(self, ports: Ports) -> None:
        """Raises DriverError: this machine has no such filter."""
        async with self._lock:
            await self._check_support()
            await self._apply(dict(ports))

    async def list_ports(self) -> tuple[PortSpec, ...]:
        async with self._lock:
            done = await run([self._nft, "-j", "list", "sets", "bridge"], timeout_s=_TIMEOUT_S)
        return _read_ports(done.stdout)

    async def keep(self) -> None:
        """Put our tables back whenever somebody has removed them (`flush ruleset`), for ever."""
        while True:
            await self._clock.sleep(_LOOK_EVERY_S)
            async with self._lock:
                try:
                    if self._ports is not None and not await self._is_intact():
                        _log.warning("port_filter_was_removed")
                        await self._apply(self._ports)
                except KowabungaError as error:
                    _log.error("port_filter_not_kept", problem=str(error))

    def _known(self) -> dict[str, tuple[PortSpec, ...]]:
        if self._ports is None:
            raise Unavailable("the filter has not been told yet which domains there are")
        return self._ports

    async def _apply(self, ports: dict[str, tuple[PortSpec, ...]]) -> None:
        everything = [port for domain in ports.values() for port in domain]
        self._stamp = f"made_{secrets.token_hex(8)}"
        guard = [*_guard(everything), _chain(self._stamp)]
        shield = [*_shield(), _chain(self._stamp)]
        await self._load([*_replace("bridge", guard), *_replace("inet", shield)])
        self._ports = ports

    async def _check_support(self) -> None:
        probe = [{"add": {"table": {"family": "bridge", "name": _NAME}}}]
        try:
            await self._load(probe, "--check")
        except DriverError as refused:
            raise DriverError(
                "this machine cannot filter what guests send",
                hint="it needs the command nft and, in the kernel, nftables for bridges",
            ) from refused

    async def _load(self, commands: list[Json], *options: str) -> None:
        document = msgspec.json.encode({"nftables": commands})
        await run([self._nft, *options, "-j", "-f", "-"], timeout_s=_TIMEOUT_S, stdin=document)

    async def _is_intact(self) -> bool:
        done = await run([self._nft, "-j", "list", "chains"], timeout_s=_TIMEOUT_S)
        things = msgspec.json.decode(done.stdout, type=_Listing).nftables
        chains = [(thing.chain.table, thing.chain.name) for thing in things if thing.chain]
        return chains.count((_NAME, self._stamp)) == 2


class _Chain(msgspec.Struct):
    table: str
    name: str


class _Set(msgspec.Struct):
    table: str
    name: str
    elem: list[Any] = []  # Any: other tables have sets of whatever

    def pairs(self) -> list[tuple[str, str]]:
        return [tuple(each["concat"]) for each in self.elem]


class _Thing(msgspec.Struct):
    chain: _Chain | None = None
    set: _Set | None = None


class _Listing(msgspec.Struct):
    nftables: list[_Thing]


def _read_ports(listing: bytes) -> tuple[PortSpec, ...]:
    """Read the sets of `_guard` as nft tells them."""
    things = msgspec.json.decode(listing, type=_Listing).nftables
    sets = {thing.set.name: thing.set for thing in things if thing.set and thing.set.table == _NAME}
    if not {"cards", "routers", "addresses"} <= sets.keys():
        return ()  # no port may speak where our table is not
    addresses = dict[str, list[str]]()
    for name, address in sets["addresses"].pairs():
        addresses.setdefault(name, []).append(address)
    routers = frozenset[str](sets["routers"].elem)
    return tuple(
        sorted(
            PortSpec(
                name=name,
                mac=mac,
                addresses=None if name in routers else tuple(sorted(addresses.get(name, ()))),
            )
            for name, mac in sets["cards"].pairs()
        )
    )


def _guard(ports: Iterable[PortSpec]) -> list[Json]:
    """Return the chains and sets that keep guests honest, in the bridge family."""
    cards = [[port.name, port.mac] for port in ports]
    routers = [port.name for port in ports if port.addresses is None]
    addresses = [
        [port.name, _address(address)] for port in ports for address in port.addresses or ()
    ]
    return [
        _set("cards", ["ifname", "ether_addr"], [{"concat": card} for card in cards]),
        _set("routers", ["ifname"], routers),
        _set("addresses", ["ifname", "ipv4_addr"], [{"concat": each} for each in addresses]),
        _chain("card"), _chain("card_arp"), _chain("card_ip"),
        _chain("from_ports", "prerouting"),
        _rule("from_ports", _is(_PORT, f"{PORT_PREFIX}*"), {"goto": {"target": "card"}}),
        _rule("card", _is(_concat(_PORT, _field("ether", "saddr")), "@cards", "!="), *_DROP),
        _rule("card", _is(_field("ether", "type"), _any_of("vlan", "8021ad")), *_DROP),
        _rule("card", _is(_field("ether", "daddr"), _prefix("01:80:c2:00:00:00", 44)), *_DROP),
        _rule("card", _is(_PORT, "@routers"), _ACCEPT),
        _rule("card", _is(_field("ether", "type"), "arp"), {"goto": {"target": "card_arp"}}),
        _rule("card", _is(_field("ether", "type"), "ip"), {"goto": {"target": "card_ip"}}),
        _rule("card", *_DROP),
        _rule("card_arp", _is(_concat(_PORT, _field("arp", "saddr ether")), "@cards", "!="),
              *_DROP),
        _rule("card_arp", _is(_concat(_PORT, _field("arp", "saddr ip")), "@addresses"), _ACCEPT),
        # Whether an address is free is asked from no address (RFC 5227).
        _rule("card_arp", _is(_field("arp", "saddr ip"), _NOBODY),
              _is(_field("arp", "operation"), "request"), _ACCEPT),
        _rule("card_arp", *_DROP),
        _rule("card_ip", _is(_field("udp", "sport"), 67), *_DROP),
        _rule("card_ip", _is(_concat(_PORT, _field("ip", "saddr")), "@addresses"), _ACCEPT),
        _rule("card_ip", _is(_field("ip", "saddr"), _NOBODY),
              _is(_field("ip", "daddr"), "255.255.255.255"),
              _is(_field("udp", "sport"), 68), _is(_field("udp", "dport"), 67), _ACCEPT),
        _rule("card_ip", *_DROP),
    ]  # fmt: skip


def _shield() -> list[Json]:
    """Return the chains by which a bridge leads to nothing but its ports, in the inet family.

    Not by what guests of this node send: those of others reach its bridges through the uplink.
    """
    from_bridge = _is({"meta": {"key": "iifgroup"}}, BRIDGE_GROUP)
    # Where frames between ports are shown to this hook (br_netfilter), both ends are the bridge.
    elsewhere = _is({"meta": {"key": "oifgroup"}}, BRIDGE_GROUP, "!=")
    return [
        _chain("to_node", "input"),
        _rule("to_node", from_bridge, *_DROP),
        _chain("through_node", "forward"),
        _rule("through_node", from_bridge, elsewhere, *_DROP),
    ]


# --- the JSON of libnftables


def _replace(family: str, content: Iterable[Json]) -> list[Json]:
    """Return the commands that make our table of this family anew, with this content."""
    table = {"table": {"family": family, "name": _NAME}}
    # Adding what is there is fine, deleting what is not would fail.
    commands = [{"add": table}, {"delete": table}, {"add": table}]
    for thing in content:
        ((kind, fields),) = thing.items()
        commands.append({"add": {kind: {"family": family, "table": _NAME, **fields}}})
    return commands


def _set(name: str, types: list[str], elements: list[Any]) -> Json:
    fields: Json = {"name": name, "type": types if len(types) > 1 else types[0]}
    return {"set": {**fields, "elem": elements} if elements else fields}


def _chain(name: str, hook: str | None = None) -> Json:
    if hook is None:
        return {"chain": {"name": name}}
    base = {"type": "filter", "hook": hook, "prio": _FIRST, "policy": "accept"}
    return {"chain": {"name": name, **base}}


def _rule(chain: str, *expressions: Json) -> Json:
    return {"rule": {"chain": chain, "expr": list(expressions)}}


def _is(left: Json, right: str | int | Json, operator: str = "==") -> Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _field(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _concat(*parts: Json) -> Json:
    return {"concat": list(parts)}


def _any_of(*values: str) -> Json:
    return {"set": list(values)}


def _prefix(address: str, length: int) -> Json:
    return {"prefix": {"addr": address, "len": length}}


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as bad:
        raise Invalid(f"{text} is not an IPv4 address", field="interfaces") from bad
