"""What allocation should do, in plain Python: sets and loops, no SQL."""

from dataclasses import dataclass, field

from appliance.core.errors import Conflict, InsufficientResource, Invalid

Refusal = type[Invalid | Conflict | InsufficientResource]


@dataclass
class SubnetModel:
    """Addresses are offsets from the network's own; the router's is 1."""

    name: str
    region: int
    prefix_length: int
    kept: dict[str, tuple[int, int] | None] = field(
        default_factory=lambda: {"reserved": None, "gw_pool": None}
    )
    owner: str | None = None

    @property
    def usable(self) -> range:
        return range(1, 2 ** (32 - self.prefix_length) - 1)

    def is_kept(self, offset: int, *purposes: str) -> bool:
        bounds = (self.kept[purpose] for purpose in purposes)
        return any(bound is not None and bound[0] <= offset <= bound[1] for bound in bounds)


@dataclass
class AdapterModel:
    subnet: SubnetModel
    offsets: list[int]
    attached: str | None = None  # the project of its machine


@dataclass
class ProjectModel:
    prefix_length: int
    quota: int
    subnets: dict[int, SubnetModel]
    vcpus: int = 0


@dataclass
class Model:
    """Methods return what was given, or raise what a service raises; a refusal changes nothing."""

    subnets: list[SubnetModel]
    adapters: dict[str, AdapterModel] = field(default_factory=dict)
    projects: dict[str, ProjectModel] = field(default_factory=dict)

    def taken(self, subnet: SubnetModel) -> set[int]:
        return {
            offset
            for adapter in self.adapters.values()
            if adapter.subnet is subnet
            for offset in adapter.offsets
        }

    def make_adapter(self, name: str, subnet: SubnetModel, wanted: list[int]) -> list[int]:
        if wanted:
            self._check_offsets(subnet, wanted, mine=())
        else:
            free = [
                offset
                for offset in subnet.usable
                if offset not in self.taken(subnet) | {1}
                and not subnet.is_kept(offset, "reserved", "gw_pool")
            ]
            if not free:
                raise InsufficientResource("full")
            wanted = free[:1]
        self.adapters[name] = AdapterModel(subnet, wanted)
        return wanted

    def change_adapter(self, name: str, wanted: list[int]) -> list[int]:
        adapter = self.adapters[name]
        if wanted != adapter.offsets:
            if adapter.attached is not None:
                raise Invalid("attached")
            self._check_offsets(adapter.subnet, wanted, mine=adapter.offsets)
        adapter.offsets = wanted
        return wanted

    def drop_adapter(self, name: str) -> None:
        if self.adapters[name].attached is not None:
            raise Conflict("attached")
        del self.adapters[name]

    def attach(self, name: str, project: str) -> None:
        self.adapters[name].attached = project

    def keep(self, subnet: SubnetModel, purpose: str, first: int, last: int) -> None:
        if purpose == "gw_pool":
            bad = {0, 1, subnet.usable.stop} | self.taken(subnet)
            if bad & set(range(first, last + 1)):
                raise Invalid("in use")
        subnet.kept[purpose] = (first, last)

    def make_project(
        self, name: str, prefix_length: int, quota: int, regions: list[int]
    ) -> dict[int, str]:
        project = ProjectModel(prefix_length, quota, {})
        return self._settle(name, project, regions)

    def change_project(self, name: str, regions: list[int]) -> dict[int, str]:
        project = self.projects[name]
        left = [subnet for region, subnet in project.subnets.items() if region not in regions]
        if any(self._machines(subnet) for subnet in left):
            raise Invalid("machines left")
        return self._settle(name, project, regions)

    def drop_project(self, name: str) -> None:
        if self.projects[name].vcpus:
            raise Conflict("machines left")
        for subnet in self.projects.pop(name).subnets.values():
            subnet.owner = None

    def take_vcpus(self, name: str, vcpus: int) -> None:
        project = self.projects[name]
        if project.quota and project.vcpus + vcpus > project.quota:
            raise InsufficientResource("quota")
        project.vcpus += vcpus

    def _machines(self, subnet: SubnetModel) -> bool:
        return any(
            adapter.subnet is subnet and adapter.attached is not None
            for adapter in self.adapters.values()
        )

    def _check_offsets(self, subnet: SubnetModel, wanted: list[int], mine: object) -> None:
        theirs = self.taken(subnet) - set(mine if isinstance(mine, list) else ())
        for offset in wanted:
            if offset not in subnet.usable or offset == 1 or subnet.is_kept(offset, "gw_pool"):
                raise Invalid("not to be had")
            if offset in theirs:
                raise Invalid("taken")

    def _settle(self, name: str, project: ProjectModel, regions: list[int]) -> dict[int, str]:
        chosen = {region: subnet for region, subnet in project.subnets.items() if region in regions}
        for region in regions:
            if region not in chosen:
                fitting = [
                    subnet
                    for subnet in self.subnets  # in order of networks, then of subnets
                    if subnet.region == region
                    and subnet.prefix_length <= project.prefix_length
                    and subnet.owner is None
                    and not self._machines(subnet)
                ]
                if not fitting:
                    raise InsufficientResource("no subnet")
                chosen[region] = max(fitting, key=lambda subnet: subnet.prefix_length)
        for subnet in project.subnets.values():
            subnet.owner = None
        for subnet in chosen.values():
            subnet.owner = name
        project.subnets = chosen
        self.projects[name] = project
        return {region: subnet.name for region, subnet in chosen.items()}
