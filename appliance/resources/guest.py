"""What a guest is told about itself, before it is put into the words of its cloud-init. Pure."""

from typing import Final

import msgspec

from appliance.core.secret import Secret

FIRST_CARD: Final = 3  # "ens3": what the interfaces of guests have always been called
_PUBLIC_METRIC: Final = 100
_PRIVATE_METRIC: Final = 200


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A network card; without an address it is left alone.

    Attributes:
        addresses: with their prefix lengths.
        gateway: the subnet's router, for `routes`.
        next_hop: where the default route leads; None: it has none.
    """

    mac: str
    private: bool
    addresses: tuple[str, ...]
    gateway: str
    next_hop: str | None
    routes: tuple[str, ...]
    dns: str

    @property
    def metric(self) -> int:
        """Of the default route: the public way out is the shorter one."""
        return _PRIVATE_METRIC if self.private else _PUBLIC_METRIC


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the documents of a seed are made from.

    Attributes:
        domain: of the project, without a dot at its end; may be empty.
        cards: in the order the guest sees them.
        local_ip: its first private address.
        password: of root; None locks it.
        secret: by which it proves to the metadata service which guest it is.
    """

    instance_id: str
    host_name: str
    domain: str
    region: str
    zone: str
    cards: tuple[Card, ...]
    local_ip: str | None
    user: str
    public_key: str | None
    password: Secret | None
    secret: Secret
    metadata_uri: str | None
    packages: tuple[str, ...]

    @property
    def search_domains(self) -> list[str]:
        return [self.domain] if self.domain else []


class Documents(msgspec.Struct, frozen=True):
    """The three files of a NoCloud medium. Hold secrets: never logged."""

    user_data: str
    meta_data: str
    network_config: str

    def __repr__(self) -> str:
        return "Documents(***)"
