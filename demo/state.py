"""What the demo has to remember until `down`: written before the thing itself is made."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class State:
    """All that outlives a command.

    Attributes:
        network: of the guests.
        port: of the API.
        executable: SHA-256 of what the node runs.
        set_up: id of the machine whose cloud-init is done.
        forwarding: links that we made forward.
        directories: mount points that we made.
    """

    path: Path
    network: str = ""
    port: int = 0
    executable: str = ""
    set_up: str = ""
    forwarding: list[str] = field(default_factory=list[str])
    directories: list[str] = field(default_factory=list[str])

    @classmethod
    def load(cls, path: Path) -> "State":
        known = json.loads(path.read_text()) if path.exists() else {}
        return cls(path=path, **known)

    def save(self) -> None:
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.rename(self.path)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"
