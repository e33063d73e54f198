"""Memory of an agent whose libvirtd, a real one, has a hundred domains defined.

In a network of its own: an agent clears its filter of ports that it does not know.
"""

import subprocess
import xml.etree.ElementTree as ET
from contextlib import closing
from typing import Final

import libvirt

from tests.bench.bench_memory import build, idle_node
from tests.support.domains import make_platform, make_spec, render
from tests.support.libvirtd import Libvirtd, private_libvirtd
from tests.support.netns import private_network

_DOMAINS: Final = 100


def run() -> dict[str, float]:
    build()
    with private_libvirtd() as libvirtd:
        without = _agent(libvirtd)
        platform = make_platform(kind="qemu", accelerated=False)
        with closing(libvirt.open(libvirtd.uri)) as connection:
            for number in range(1, _DOMAINS + 1):
                definition = render(make_spec(number), platform)
                connection.defineXMLFlags(ET.tostring(definition, encoding="unicode"))
        return {
            "agent_rss_mb_without_domains": without,
            f"agent_rss_mb_with_{_DOMAINS}_domains": _agent(libvirtd),
        }


def _agent(libvirtd: Libvirtd) -> float:
    with private_network():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        section = f"kaktus:\n  acceleration: tcg\n  libvirt_uri: {libvirtd.uri}\n"
        return idle_node(section)["kaktus"]
