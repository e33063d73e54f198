"""What machines that are no more have left on a node: the other half of `state verify`.

Files, links, rules and processes are looked at as they are, with tools that know nothing of us.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from appliance.drivers.local_pool.known_pools import MARK
from tests.support.libvirtd import Libvirtd

_ID: Final = re.compile(r"[0-9a-f]{24}")
_MARK: Final = ".kowabunga-pool"  # tells a pool that is mounted from one that is not
_OWN_LINKS: Final = re.compile(r"kw|br|kowa")


@dataclass(frozen=True, slots=True)
class Existing:
    """What may be on the node.

    Attributes:
        ids: of the instances, volumes and templates that there are.
        macs: of their cards.
        bridges: by name.
    """

    ids: Collection[str]
    macs: Collection[str]
    bridges: Collection[str]


def find_remains(libvirtd: Libvirtd, directories: Iterable[Path], existing: Existing) -> list[str]:
    """Return a sentence for each thing that belongs to nothing that exists."""
    ports = {f"kw{mac.lower().replace(':', '')}" for mac in existing.macs}
    return [
        *(left for directory in directories for left in _files(directory, existing.ids)),
        *_domains(libvirtd, existing.ids),
        *_processes(libvirtd, existing.ids),
        *_links(libvirtd, {*ports, *existing.bridges}),
        *_rules(libvirtd, ports),
    ]


def _files(directory: Path, ids: Collection[str]) -> Iterator[str]:
    for file in directory.rglob("*"):
        if file.is_dir() or file.name == MARK:
            continue
        found = _ID.search(file.name)
        if file.name.startswith("."):
            yield f"{file} is unfinished"
        elif found is None or found[0] not in ids:
            yield f"{file} is nobody's"


def _domains(libvirtd: Libvirtd, ids: Collection[str]) -> Iterator[str]:
    for name in libvirtd.run("virsh", "-q", "-c", libvirtd.uri, "list", "--all", "--name").split():
        if name not in ids:
            yield f"domain {name} is nobody's"


def _processes(libvirtd: Libvirtd, ids: Collection[str]) -> Iterator[str]:
    words = libvirtd.run(
        "sh", "-c", r"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep ^guest= || :"
    )
    for word in words.split():
        found = _ID.search(word)
        if found is None or found[0] not in ids:
            yield f"a QEMU runs {word}, which is nobody's"


def _links(libvirtd: Libvirtd, names: Collection[str]) -> Iterator[str]:
    for link in msgspec.json.decode(libvirtd.run("ip", "-j", "link")):
        name = link["ifname"]
        if _OWN_LINKS.match(name) and name not in names:
            yield f"link {name} is nobody's"


def _rules(libvirtd: Libvirtd, ports: Collection[str]) -> Iterator[str]:
    listed: Any = msgspec.json.decode(
        libvirtd.run("nft", "-j", "list", "table", "bridge", "kowabunga")
    )
    for thing in listed["nftables"]:
        for element in thing.get("set", {}).get("elem", ()):
            port = element["concat"][0] if isinstance(element, dict) else element
            if port not in ports:
                yield f"the filter knows port {port}, which is nobody's"
