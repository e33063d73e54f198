"""Where the demo keeps its things: all below one directory, which `down` removes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demo.cloud import Machine
    from demo.state import State


@dataclass(frozen=True)
class Places:
    top: Path

    @property
    def state_file(self) -> Path:
        return self.top / "demo.json"

    @property
    def log(self) -> Path:
        """What the commands said that the demo ran."""
        return self.top / "demo.log"

    @property
    def node_file(self) -> Path:
        return self.top / "node.yaml"

    @property
    def runtime(self) -> Path:
        """Run directory of the node's supervisor."""
        return self.top / "run"

    @property
    def node_state(self) -> Path:
        """State directory of the node."""
        return self.top / "node"

    @property
    def unpacked(self) -> Path:
        """Where the executable unpacks itself."""
        return self.top / "unpacked"

    @property
    def api_key_file(self) -> Path:
        return self.top / "master.key"

    @property
    def ca_file(self) -> Path:
        return self.node_state / "agent" / "kaktus" / "ca.pem"

    @property
    def pool(self) -> Path:
        return self.top / "pools" / "demo"

    @property
    def libvirt(self) -> Path:
        return self.top / "libvirt"

    @property
    def ssh_key(self) -> Path:
        return self.top / "ssh" / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.top / "ssh" / "known_hosts"

    @property
    def environment_file(self) -> Path:
        """To be sourced: how `kowabunga` finds this Kahuna."""
        return self.top / "env"

    def make(self) -> None:
        self.top.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.ssh_key.parent.mkdir(mode=0o700, exist_ok=True)
        self.pool.parent.mkdir(mode=0o711, exist_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.top)

    def explain(self, machine: "Machine", state: "State") -> str:
        """Say how to look around and how to stop."""
        login = f"-o UserKnownHostsFile={self.known_hosts} {machine.user}@{machine.address}"
        return f"""\
API       {state.url}, its pages at {state.url}/docs
key       {self.api_key_file}
machine   ssh -i {self.ssh_key} {login}
cloud     . {self.environment_file}; dist/kowabunga kompute list
logs      {self.runtime}/node.log
stop      ./build.sh demo down"""
