"""The nouns of the cloud: where each kind is in the API, what it refers to, what else it can do.

Data alone, and the only place to add a kind: commands, options, tables and help derive from an
entry and from the Struct that it names (`resource.py`, `shape.py`). Imports nothing heavy, since
the help of the whole program lists the nouns.
"""

from collections.abc import Mapping
from typing import Final

from appliance.cli.noun import Action, Noun, Query, Reading

_POOL: Final = Query(
    name="poolId", option="pool", about="Storage pool; else the region's default.", noun="pool"
)
_TEMPLATE: Final = Query(
    name="templateId", option="template", about="Template; else the pool's default.",
    noun="template",
)  # fmt: skip
_STATE: Final = Reading(
    verb="state",
    about="Tell what the machine does, as its host sees it.",
    struct="appliance.resources.instance:InstanceState",
)
_POWER: Final = (
    Action(verb="start", about="Power the machine on.", settled="Running"),
    Action(verb="stop", about="Power the machine off at once.", settled="Shutoff"),
    Action(verb="shutdown", about="Ask the guest to power itself off.", settled="Shutoff"),
    Action(verb="reboot", about="Ask the guest to start anew."),
    Action(verb="reset", about="Start the machine anew at once."),
    Action(verb="suspend", about="Hold the machine where it is.", settled="Paused"),
    Action(verb="resume", about="Let a held machine go on.", settled="Running"),
)

_ALL: Final = (
    Noun(
        name="region",
        about="Regions: places whose zones share networks and storage.",
        struct="appliance.resources.region:Region",
        columns=("domain", "description"),
        example="eu-west --domain eu-west.example.org",
    ),
    Noun(
        name="zone",
        about="Zones: parts of a region that fail as one.",
        struct="appliance.resources.zone:Zone",
        below=("region",),
        columns=("description",),
        example="eu-west-a --region eu-west",
        where="appliance.cli.platform:zone",
    ),
    Noun(
        name="agent",
        about="Agents: register, enrol, revoke, read their logs.",
        struct="appliance.resources.agent:Agent",
        index="/api/ext/v1/agents",
        columns=("type", "description"),
        actions=(
            Action(
                verb="token",
                about="Issue a new key, which ends the old one; fetch it with `agent credential`.",
                queries=(
                    Query(
                        name="expire", option="expire", about="The key ends some day.", kind=bool
                    ),
                    Query(
                        name="expiration_date",
                        option="expiration-date",
                        about="Its last day, YYYY-MM-DD.",
                    ),
                ),
                struct="appliance.resources.api_token:ApiToken",
            ),
        ),
        example="kaktus-1 --type Kaktus",
        where="appliance.cli.agent:agent",
    ),
    Noun(
        name="kiwi",
        about="Kiwis: the SD-WAN routers of a region.",
        struct="appliance.resources.kiwi:Kiwi",
        below=("region",),
        references={"agents": "agent"},
        columns=("agents", "description"),
        example="kiwi-eu-west --region eu-west --agent kiwi-1 --agent kiwi-2",
    ),
    Noun(
        name="kaktus",
        about="Kaktus nodes: computing and storage of a zone.",
        struct="appliance.resources.kaktus:Kaktus",
        plural="kaktuses",
        below=("zone",),
        references={"agents": "agent"},
        columns=("agents", "description"),
        readings=(
            Reading(
                verb="caps",
                about="Tell what the node has to offer.",
                struct="appliance.resources.kaktus:KaktusCaps",
                sizes=("memory",),
            ),
        ),
        example="kaktus-eu-west-a-1 --zone eu-west-a --agent kaktus-1 --cpu-price 120",
        where="appliance.cli.placement:kaktus",
    ),
    Noun(
        name="vnet",
        about="Virtual networks: layer-2 segments of a region.",
        struct="appliance.resources.vnet:VNet",
        below=("region",),
        columns=("vlan", "interface", "private"),
        example="tenants --region eu-west --vlan 201 --interface br201",
    ),
    Noun(
        name="subnet",
        about="Subnets: IPv4 networks on a virtual network.",
        struct="appliance.resources.subnet:Subnet",
        below=("vnet",),
        default_of="vnet",
        columns=("cidr", "gateway", "application"),
        example="tenants-1 --vnet tenants --cidr 10.1.0.0/24 --gateway 10.1.0.1"
        " --gw-pool 10.1.0.2-10.1.0.5",
    ),
    Noun(
        name="pool",
        about="Storage pools: where volumes and templates of a region are.",
        struct="appliance.resources.storage_pool:StoragePool",
        below=("region",),
        default_of="region",
        references={"agents": "agent"},
        columns=("pool", "ceph_address", "agents"),
        example="ssd --region eu-west --pool rbd --ceph-address 10.0.0.1 --agent kaktus-1",
    ),
    Noun(
        name="template",
        about="Templates: bootable images in a storage pool.",
        struct="appliance.resources.template:Template",
        below=("pool",),
        scoped=True,
        default_of="pool",
        columns=("os", "source"),
        example="debian-13 --pool ssd --source https://images.example.org/debian-13.qcow2",
        where="appliance.cli.platform:template",
    ),
    Noun(
        name="user",
        about="Users: people and robots, their passwords and keys.",
        struct="appliance.resources.user:User",
        columns=("email", "role", "description"),
        example="john --email john@example.org --role projectAdmin",
        where="appliance.cli.user:user",
    ),
    Noun(
        name="team",
        about="Teams: users who work in the same projects.",
        struct="appliance.resources.team:Team",
        references={"users": "user"},
        columns=("users", "description"),
        example="infra --user john",
    ),
    Noun(
        name="project",
        about="Projects: tenants with networks, quotas and machines of their own.",
        struct="appliance.resources.project:Project",
        references={"teams": "team", "regions": "region"},
        queries=(
            Query(
                name="subnetSize",
                option="subnet-size",
                about="Prefix length of the smallest subnet that it has room in; else 26.",
                kind=int,
            ),
        ),
        sizes=("quotas.memory", "quotas.storage"),
        secrets=("root_password",),
        columns=("domain", "quotas.vcpus", "quotas.memory", "description"),
        readings=(
            Reading(
                verb="cost",
                about="Tell what the project costs in a month.",
                struct="appliance.resources.cost:Cost",
            ),
            Reading(
                verb="usage",
                about="Tell what the project uses of its quotas.",
                struct="appliance.resources.project:ProjectResources",
                sizes=("memory", "storage"),
            ),
        ),
        example="shop --team infra --region eu-west --quota-vcpus 16 --quota-memory 64GiB",
        where="appliance.cli.placement:project",
    ),
    Noun(
        name="volume",
        about="Volumes: virtual disks of a project.",
        struct="appliance.resources.volume:Volume",
        below=("project", "region"),
        listed_below=("pool",),
        queries=(_POOL, _TEMPLATE),
        sizes=("size",),
        columns=("type", "size", "description"),
        example="web-data --project shop --region eu-west --type raw --size 20GiB",
    ),
    Noun(
        name="adapter",
        about="Adapters: network cards of machines, and addresses of routers.",
        struct="appliance.resources.adapter:Adapter",
        below=("subnet",),
        queries=(
            Query(
                name="assignIP",
                option="assign-ip",
                about="Take the lowest free address.",
                kind=bool,
            ),
        ),
        columns=("mac", "addresses"),
        example="web-nic --subnet tenants-1 --assign-ip",
    ),
    Noun(
        name="instance",
        about="Instances: machines put together from adapters and volumes.",
        struct="appliance.resources.instance:Instance",
        below=("project", "zone"),
        listed_below=("kaktus",),
        references={"adapters": "adapter", "volumes": "volume"},
        sizes=("memory",),
        columns=("vcpus", "memory", "description"),
        readings=(
            _STATE,
            Reading(
                verb="connect",
                about="Give a URL that opens the screen of the machine once.",
                struct="appliance.resources.instance:InstanceRemoteAccess",
            ),
        ),
        actions=_POWER,
        has_console=True,
        example="web --project shop --zone eu-west-a --vcpus 2 --memory 4GiB"
        " --adapter web-nic --volume web-os",
    ),
    Noun(
        name="kompute",
        about="Komputes: machines with their disks and addresses.",
        struct="appliance.resources.kompute:Kompute",
        below=("project", "zone"),
        queries=(
            _POOL,
            _TEMPLATE,
            Query(name="public", option="public", about="Give it a public address too.", kind=bool),
        ),
        sizes=("memory", "disk", "data_disk"),
        columns=("vcpus", "memory", "disk", "ip"),
        readings=(_STATE,),
        actions=_POWER,
        has_console=True,
        example="web --project shop --zone eu-west-a --vcpus 2 --memory 4GiB --disk 20GiB",
        where="appliance.cli.placement:kompute",
    ),
)

NOUNS: Final[Mapping[str, Noun]] = {noun.name: noun for noun in _ALL}
