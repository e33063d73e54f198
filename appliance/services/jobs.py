"""How an operation reaches an object that exists: its arguments, and all that it locks.

The same for a user's request and for reconciliation.
"""

from collections.abc import Sequence
from typing import NamedTuple

from appliance.model.target import target
from appliance.operations.step import OperationKind, Submission
from appliance.resources.instance import InstanceFacts
from appliance.resources.kompute import KomputeFacts
from appliance.resources.volume import VolumeFacts
from appliance.resources.work import Work
from appliance.services.durable import Asked, Durable
from appliance.store.base import Statement


class Job(NamedTuple):
    """The first target is that of the object."""

    work: Work
    targets: tuple[str, ...]

    def submission(
        self, asked: Asked, kind: OperationKind[Work], statements: Sequence[Statement]
    ) -> Submission[Work]:
        """Return the operation that a user asks for, with the rows to write along."""
        return Submission(
            kind=kind,
            arguments=self.work,
            targets=self.targets,
            principal=asked.principal,
            request_key=asked.key,
            statements=statements,
        )


async def template_job(durable: Durable, template_id: str, pool_id: str) -> Job:
    """Raise Unavailable, as all of these do, when an agent that is needed is not connected."""
    agents = await durable.storage_agents([pool_id])
    return Job(Work(template_id, storage_agents=agents), (target("template", template_id),))


async def volume_job(durable: Durable, facts: VolumeFacts) -> Job:
    """Reach the host too, if an instance may have the disk open."""
    storage_agents = await durable.storage_agents([facts.storage_pool_id])
    held = target("volume", facts.id)
    if facts.instance_id is None:
        return Job(Work(facts.id, storage_agents=storage_agents), (held,))
    host_agent = durable.agent_among(
        facts.list_host_agents(), f"the Kaktus of instance {facts.instance_id}"
    )
    work = Work(
        facts.id,
        instance_id=facts.instance_id,
        host_agent=host_agent,
        storage_agents=storage_agents,
    )
    return Job(work, (held, target("instance", facts.instance_id)))


async def instance_job(
    durable: Durable, facts: InstanceFacts, more_volumes: Sequence[str] = ()
) -> Job:
    """Lock the volumes that it has, and those that it shall have; reach the pool of its seed."""
    host_agent = durable.agent_among(facts.list_agents(), f"Kaktus {facts.host_name}")
    volumes = dict.fromkeys((*facts.list_volumes(), *more_volumes))
    return Job(
        Work(
            facts.id,
            instance_id=facts.id,
            host_agent=host_agent,
            storage_agents=await durable.storage_agents([facts.seed_pool_id]),
        ),
        (target("instance", facts.id), *(target("volume", each) for each in volumes)),
    )


async def kompute_job(
    durable: Durable,
    facts: KomputeFacts,
    pool_ids: Sequence[str],
    more_volumes: Sequence[str] = (),
) -> Job:
    """Reach these storage pools and the seed's; other agents need not be connected."""
    host_agent = durable.agent_among(facts.list_agents(), f"Kaktus {facts.host_name}")
    volumes = (*(disk.id for disk in facts.list_disks()), *more_volumes)
    return Job(
        Work(
            facts.id,
            instance_id=facts.instance_id,
            host_agent=host_agent,
            storage_agents=await durable.storage_agents([*pool_ids, facts.seed_pool_id]),
        ),
        (
            target("kompute", facts.id),
            target("instance", facts.instance_id),
            *(target("volume", each) for each in volumes),
        ),
    )
