"""What clients send: valid for the most part, with names, networks and parts that clash."""

import random
from collections.abc import Callable
from typing import Any, Final

GIB: Final = 1024**3
Json = dict[str, Any]
Make = Callable[[], Json]
Change = Callable[[Json], Json]
_NAMES: Final = 8  # of each kind: few enough to be taken often
_RECENT: Final = 12


class Known:
    """The ids that clients have seen, by the names of paths' parameters."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}
        self.gone: dict[str, list[str]] = {}
        self.kept: dict[str, list[str]] = {}  # what everybody needs, and nobody deletes
        self._made = 0

    def add(self, parameter: str, object_id: str) -> None:
        ids = self.ids.setdefault(parameter, [])
        if object_id not in ids:
            ids.append(object_id)

    def remove(self, object_id: str) -> None:
        for name, ids in self.ids.items():
            if object_id in ids:
                ids.remove(object_id)
                self.gone.setdefault(name, []).append(object_id)

    def keep(self, parameter: str, object_id: str) -> None:
        self.add(parameter, object_id)
        self.kept.setdefault(parameter, []).append(object_id)

    def serial(self) -> int:
        """Return a number that nobody else has."""
        self._made += 1
        return self._made


def agents_of(kind: str) -> str:
    """Return the name under which agents of a type are known too."""
    return f"agentId of {kind}"


class Writer:
    """Makes up bodies, with the luck of one client."""

    def __init__(self, luck: random.Random, known: Known) -> None:
        self._luck = luck
        self._known = known
        self._made: dict[str, Make] = {
            "Region": lambda: {"domain": "eu.example.org"},
            "Zone": dict,
            "Agent": lambda: {"type": luck.choice(("Kaktus", "Kaktus", "Kiwi"))},
            "Kiwi": lambda: {"agents": self._some(agents_of("Kiwi"), 1)},
            "Kaktus": lambda: {"agents": self._some(agents_of("Kaktus"), 1)},
            "VNet": lambda: {
                "vlan": luck.randrange(2, 12),
                "interface": f"br{luck.randrange(2, 12)}",
                "private": luck.random() < 0.7,
            },
            "Subnet": self._subnet,
            # Two pools of one name in Ceph would be one pool.
            "StoragePool": lambda: {
                "pool": f"rbd-{known.serial()}",
                "ceph_address": "ceph.example",
                "agents": self._some(agents_of("Kaktus"), 2),
            },
            "Template": lambda: {"source": "https://images.example/debian.qcow2"},
            "User": lambda: {
                "email": f"u{luck.randrange(_NAMES)}@example.org",
                "role": luck.choice(("superAdmin", "projectAdmin", "user")),
            },
            "Team": lambda: {"users": self._some("userId", 2)},
            "Project": self._project,
            "Adapter": self._adapter,
            "Volume": lambda: {
                "type": luck.choice(("os", "os", "raw")),
                "size": luck.choice((2 * GIB, 2 * GIB, 3 * GIB, GIB)),
            },
            "Instance": lambda: {
                "memory": GIB,
                "vcpus": luck.choice((1, 1, 2)),
                "adapters": self._some("adapterId", 2),
                "volumes": self._some("volumeId", 2),
            },
            "Kompute": lambda: {
                "memory": luck.choice((GIB, 2 * GIB)),
                "vcpus": luck.choice((1, 1, 2, 2000)),
                "disk": luck.choice((2 * GIB, 2 * GIB, 3 * GIB, GIB)),
                "data_disk": luck.choice((0, 0, GIB)),
            },
        }
        self._changes: dict[str, Change] = {
            "Kompute": lambda old: {
                "vcpus": luck.choice((1, 2)),
                "memory": luck.choice((GIB, 2 * GIB)),
                "disk": old["disk"] + luck.choice((0, GIB)),
            },
            "Instance": lambda old: {
                "vcpus": luck.choice((1, 2)),
                "volumes": luck.choice((old["volumes"], self._some("volumeId", 2))),
                "adapters": luck.choice((old["adapters"], self._some("adapterId", 2))),
            },
            "Volume": lambda old: {"size": old["size"] + luck.choice((0, GIB))},
            "Adapter": lambda _: self._adapter(),
            "Subnet": lambda old: self._ranges(old["cidr"]),
            "Project": lambda old: {"regions": luck.choice((old["regions"], self._regions()))},
        }

    def make(self, kind: str) -> Json:
        """Return a new object of a kind, by the name of its schema."""
        return {"name": self._name(kind), "description": "", **self._made[kind]()}

    def change(self, kind: str, stored: Json) -> Json:
        """Return what an object shall become: mostly what it is."""
        named = {"name": self._name(kind)} if self._luck.random() < 0.3 else {}
        changes = self._changes[kind](stored) if kind in self._changes else {}
        described = {"description": f"changed {self._luck.randrange(9)}"}
        return {**stored, **described, **named, **changes}

    def _name(self, kind: str) -> str:
        names = _NAMES * 4 if kind in ("Kompute", "Volume", "Adapter") else _NAMES
        return f"{kind.lower()}-{self._luck.randrange(names)}"

    def _some(self, parameter: str, most: int) -> list[str]:
        known = self._known.ids.get(parameter, [])
        known = known[-_RECENT:]  # what is there still, and may be free
        return self._luck.sample(known, min(self._luck.randint(1, most), len(known)))

    def _regions(self) -> list[str]:
        return self._some("regionId", 2)

    def _subnet(self) -> Json:
        net = f"10.{self._luck.randrange(8)}.{self._luck.randrange(4)}"
        cidr = f"{net}.0/{self._luck.choice((24, 26, 28))}"
        return {
            "cidr": cidr,
            "gateway": f"{net}.1",
            "application": self._luck.choice(("user", "user", "user", "ceph")),
            **self._ranges(cidr),
        }

    def _ranges(self, cidr: str) -> Json:
        net = cidr.rpartition(".")[0]
        first = self._luck.randrange(2, 12)
        kept = {"first": f"{net}.{first}", "last": f"{net}.{first + 2}"}
        return {self._luck.choice(("reserved", "gw_pool")): self._luck.choice(([], [kept]))}

    def _project(self) -> Json:
        return {
            "teams": self._some("teamId", 1),
            "regions": self._regions(),
            "quotas": {
                "vcpus": self._luck.choice((0, 3)),
                "instances": self._luck.choice((0, 2)),
                "memory": self._luck.choice((0, 4 * GIB)),
                "storage": self._luck.choice((0, 16 * GIB)),
            },
        }

    def _adapter(self) -> Json:
        luck = self._luck
        addresses = [f"10.0.0.{luck.randrange(2, 30)}"] if luck.random() < 0.4 else []
        mac = f"52:54:00:00:00:{luck.randrange(6):02x}" if luck.random() < 0.2 else ""
        return {"addresses": addresses, "mac": mac}
