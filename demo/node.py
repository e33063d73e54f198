"""The node: its file, and its roles, started from the executable as on any machine."""

import hashlib
import json
import socket
from pathlib import Path

from demo import hypervisor, network
from demo.command import run
from demo.places import Places
from demo.progress import Failed
from demo.state import State

NAME = "demo"
PORT = 8443  # if it is free
_START_S = 180


def ensure(places: Places, state: State, executable: Path) -> None:
    """Write the node file and bring the node there."""
    if not state.port:
        state.port = _free_port()
        state.save()
    if not places.node_file.exists():
        places.node_file.write_text(_node_file(places, state))
    places.environment_file.write_text(
        f"export KOWABUNGA_URL={state.url} KOWABUNGA_API_KEY_FILE={places.api_key_file}"
        f" KOWABUNGA_CA_FILE={places.ca_file} SHIV_ROOT={places.unpacked}\n"
    )
    built = hashlib.sha256(executable.read_bytes()).hexdigest()
    if state.executable != built:
        _role(places, executable, "stop")  # what runs is of another build
        state.executable = built
        state.save()
    try:
        _role(places, executable, "set", "kahuna,kaktus", "--timeout", _START_S)
    except Failed as failed:
        raise Failed(
            f"{failed}\n{status(places, executable)}see {places.runtime}/node.log"
        ) from None


def acceleration(places: Places, executable: Path) -> str:
    """Return what the Kaktus says about what its guests run on."""
    roles = json.loads(_role(places, executable, "show", "-o", "json", check=False))
    (kaktus,) = (role for role in roles if role["role"] == "kaktus")
    return str(kaktus["detail"])


def status(places: Places, executable: Path) -> str:
    return _role(places, executable, "show", check=False)


def stop(places: Places, executable: Path) -> None:
    if places.node_file.exists():
        if not executable.exists():
            raise Failed(f"{executable} is missing; make it: ./build.sh zipapp")
        _role(places, executable, "stop")


def _role(places: Places, executable: Path, *arguments: object, check: bool = True) -> str:
    return run(
        *(executable, "role", *arguments, "--config", places.node_file),
        *("--runtime", places.runtime),
        timeout_s=_START_S + 20,
        check=check,
        environment={"SHIV_ROOT": str(places.unpacked)},
    )


def _node_file(places: Places, state: State) -> str:
    return f"""\
# The node of ./build.sh demo.
name: {NAME}
state: {places.node_state}
kahuna:
  listen: 127.0.0.1:{state.port}
  api_key_file: {places.api_key_file}
kaktus:
  uplink: {network.UPLINK}
  pool_roots: [{places.pool.parent}]
  libvirt_uri: {hypervisor.uri(places)}
"""


def _free_port() -> int:
    for port in (PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed("no port is free")
