"""Who asks: the identity that authentication found, as rows and logs name it."""

from dataclasses import dataclass
from enum import StrEnum

from appliance.core.errors import Invalid


class PrincipalKind(StrEnum):
    MASTER = "master"  # the cluster's bootstrap key
    LOCAL = "local"  # a process on this node, known by the kernel (root or the service's own user)
    USER = "user"
    AGENT = "agent"
    SYSTEM = "system"  # the cluster itself: reconciliation, housekeeping


@dataclass(frozen=True, slots=True)
class Principal:
    """Text form: "master", "system", "local/uid:0", "user/ID", "agent/ID"."""

    kind: PrincipalKind
    id: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}" if self.id else str(self.kind)

    @classmethod
    def parse(cls, text: str) -> "Principal":
        """Read the text form back.

        Raises:
            Invalid: not a text that `str` of a principal makes.
        """
        kind, slash, name = text.partition("/")
        if kind not in set(PrincipalKind) or bool(slash) != bool(name):
            raise Invalid(f"{text!r} is not a principal")
        return cls(PrincipalKind(kind), name)


MASTER = Principal(PrincipalKind.MASTER)
SYSTEM = Principal(PrincipalKind.SYSTEM)


def local_principal(uid: int) -> Principal:
    return Principal(PrincipalKind.LOCAL, f"uid:{uid}")
