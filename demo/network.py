"""The demo's network: a pair of links, one end for the node's guests, one for this machine.

    guest -- bridge of the vnet, made by the agent -- kdemo-up ==== kdemo-gw -- this machine, NAT

The agent uses `kdemo-up` as it would a network card: its uplink. Nothing else of this machine's
network is changed, but that the link of its default route forwards, where it did not.
"""

import ipaddress
import json
from pathlib import Path

from demo.command import run
from demo.progress import Failed
from demo.state import State

GATEWAY_LINK = "kdemo-gw"
UPLINK = "kdemo-up"
BRIDGE = "kdemo-net"
TABLE = "kowabunga-demo"
AGENT_TABLES = ("bridge kowabunga", "inet kowabunga")  # what guests may send: the agent's own
_CANDIDATES = [f"10.{second}.77.0/24" for second in (251, 242, 233, 224, 187)]
_FORWARDING = "/proc/sys/net/ipv4/conf/{}/forwarding"


def ensure(state: State) -> None:
    """Make the links and the NAT."""
    if not state.network:
        state.network = _choose()
        state.save()
    network = ipaddress.ip_network(state.network)
    if GATEWAY_LINK not in _links():
        run("ip", "link", "add", GATEWAY_LINK, "type", "veth", "peer", "name", UPLINK)
    for address in gateways(state):
        run("ip", "address", "replace", f"{address}/{network.prefixlen}", "dev", GATEWAY_LINK)
    for link in (GATEWAY_LINK, UPLINK):
        run("ip", "link", "set", link, "up")
    outside = _default_link()
    for link in filter(None, (GATEWAY_LINK, outside)):
        if link not in state.forwarding and not _forwards(link):
            state.forwarding.append(link)
            state.save()
            _forward(link, on=True)
    run("nft", "-f", "-", stdin=_rules(network, outside, guarded=outside in state.forwarding))


def remove(state: State) -> None:
    """Take it away: also the agent's bridges over our uplink, and its rules."""
    for table in (f"inet {TABLE}", *AGENT_TABLES):
        run("nft", "delete", "table", *table.split(), check=False)
    links = _links()
    for link in state.forwarding:
        if link in links and link != GATEWAY_LINK:
            _forward(link, on=False)
    for name, alias in links.items():
        if (
            alias.startswith("kowabunga:")
            and json.loads(alias.partition(":")[2]).get("uplink") == UPLINK
        ):
            run("ip", "link", "delete", name)
    if GATEWAY_LINK in links:
        run("ip", "link", "delete", GATEWAY_LINK)


def gateways(state: State) -> tuple[str, str]:
    """Return the router's address and that of the project's gateway: this machine plays both."""
    network = ipaddress.ip_network(state.network)
    return str(network[1]), str(network[2])


def name_server() -> str:
    """Return a name server that guests can ask: one of this machine's that is not this machine."""
    for file in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        for line in file.read_text().splitlines() if file.exists() else ():
            match line.split():
                case ["nameserver", address] if ":" not in address and not address.startswith(
                    "127."
                ):
                    return address
    return "9.9.9.9"


def _rules(network: object, outside: str | None, *, guarded: bool) -> str:
    """Return the NAT; where we made a link forward, nothing else may pass because of that.

    Where the kernel shows these rules also what a bridge carries (br_netfilter, which Docker
    loads), each connection would be met twice, and decided on before it is routed: hence notrack.
    """
    guard = f'iifname "{outside}" oifname != "{GATEWAY_LINK}" drop' if guarded else ""
    masquerade = f'ip saddr {network} oifname "{outside}" masquerade' if outside else ""
    return f"""
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept
    iifname "{BRIDGE}" notrack
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept
    {guard}
    oifname "{GATEWAY_LINK}" ct state established,related accept
    oifname "{GATEWAY_LINK}" drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept
    {masquerade}
  }}
}}
"""


def _choose() -> str:
    """Return a network that this machine has no route to yet."""
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default"
    ]
    for candidate in _CANDIDATES:
        if not any(one.overlaps(ipaddress.ip_network(candidate)) for one in taken):
            return candidate
    raise Failed(f"all of {', '.join(_CANDIDATES)} are in use on this machine")


def _links() -> dict[str, str]:
    """Return the aliases of all links, by name."""
    return {
        link["ifname"]: link.get("ifalias", "") for link in json.loads(run("ip", "-json", "link"))
    }


def _default_link() -> str | None:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default"))
    return routes[0]["dev"] if routes else None


def _forwards(link: str) -> bool:
    return Path(_FORWARDING.format(link)).read_text().strip() == "1"


def _forward(link: str, *, on: bool) -> None:
    Path(_FORWARDING.format(link)).write_text("1" if on else "0")
