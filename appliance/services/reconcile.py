"""Reconciliation: look at what a node shows, and ask for what is not as it should be.

Level-triggered: at each hello of an agent, from time to time, and when an agent tells of a change,
the whole state is compared; what was missed before does not matter. A difference is mended by the
operation that a user's request would start. What nobody knows is reported and never touched.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from appliance.core.clock import Clock
from appliance.core.errors import Busy, DeadlineExceeded, DriverError, KowabungaError, Unavailable
from appliance.model.compute import ObservedDomain
from appliance.model.domain_state import DomainReason
from appliance.model.target import target
from appliance.operations.engine import Engine
from appliance.operations.operation import Origin
from appliance.operations.step import OperationKind, Submission
from appliance.resources.bridge import (
    BRIDGES_MEND,
    WantedBridge,
    compare_bridges,
    wanted_bridges,
)
from appliance.resources.instance import InstanceFacts, instance_facts
from appliance.resources.instance_work import INSTANCE_DELETE, INSTANCE_UPDATE
from appliance.resources.kompute import KomputeFacts, kompute_facts
from appliance.resources.kompute_work import KOMPUTE_DELETE, KOMPUTE_UPDATE
from appliance.resources.observed import (
    Difference,
    ExpectedDomain,
    ExpectedImage,
    ObservedHost,
    ObservedPool,
    Trouble,
    compare_domains,
    compare_images,
    expected_domains,
    expected_images,
    hosts_of_agent,
    pools_of_agent,
    record_host,
    record_pool,
    record_state,
)
from appliance.resources.template import TEMPLATE_DELETE, TemplatePlace, template_pool
from appliance.resources.volume import (
    VOLUME_DELETE,
    VOLUME_UPDATE,
    VolumeFacts,
    volume_facts,
)
from appliance.resources.work import Work
from appliance.rpc.compute import COMPUTE_GET_HOST, COMPUTE_LIST_DOMAINS
from appliance.rpc.gateway import AgentGateway
from appliance.rpc.method import Nothing
from appliance.rpc.methods import Event
from appliance.rpc.network import NETWORK_LIST_BRIDGES
from appliance.rpc.storage import STORAGE_GET_POOL_STATISTICS, StoragePoolParams
from appliance.services.durable import Durable
from appliance.services.jobs import Job, instance_job, kompute_job, template_job, volume_job
from appliance.services.seeds import Seeds
from appliance.services.verify import list_images
from appliance.store.base import Consistency, Statement, Store

PERIOD_S: Final = 300.0
CATCH_UP_S: Final = 20.0
_AT_ONCE: Final = 4
# Of one object in a period: a guest that crashes whenever it is started keeps nobody busy.
MENDS: Final = 10
_PRINCIPAL: Final = "system/reconcile"
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)

Alarm = Callable[[str, str, str], Awaitable[None]]
"""Raise an alarm: kind, target, detail."""


class Mends:
    """Counts how often each object was mended of late."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = Counter[str]()
        self._since = clock.monotonic()

    def are_too_many(self, held: str) -> bool:
        """Tell whether it was mended so often in this period that once more would not help."""
        now = self._clock.monotonic()
        if now - self._since >= PERIOD_S:
            self._count.clear()
            self._since = now
        return self._count[held] >= MENDS

    def count(self, held: str) -> None:
        """Note that it is mended: a look that found somebody at work is no mend."""
        self._count[held] += 1


class Reconciler:
    def __init__(
        self,
        store: Store,
        engine: Engine,
        gateway: AgentGateway,
        durable: Durable,
        seeds: Seeds,
        *,
        alarm: Alarm,
        clock: Clock,
    ) -> None:
        self._store = store
        self._engine = engine
        self._gateway = gateway
        self._durable = durable
        self._seeds = seeds
        self._alarm = alarm
        self._clock = clock
        self._due: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()  # those in the queue
        self._looking: set[str] = set()
        self._again: set[str] = set()  # those that came due while they were looked at
        self._missed: set[str] = set()  # those of which not all was seen
        self._finished: asyncio.Queue[str] = asyncio.Queue()  # operations
        self._mends = Mends(clock)

    def agent_connected(self, agent_id: str) -> None:
        """Look at the agent's node soon."""
        if agent_id not in self._waiting:
            self._waiting.add(agent_id)
            self._due.put_nowait(agent_id)

    async def on_event(self, agent_id: str, event: Event) -> None:
        """Take an event as what it is, a hint to look."""
        if event.kind == "domain.state":
            self.agent_connected(agent_id)

    def operation_finished(self, operation_id: str) -> None:
        """Look soon at the node on which an operation has left less than there was, or than asked.

        Bridges that nobody needs any more are not the operation's to remove, and what a user asked
        for is kept when it fails: neither should wait for the next period.
        """
        self._finished.put_nowait(operation_id)

    async def run(self) -> None:
        """Look at the nodes that are due, a few at once, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_operations(), name="reconcile_operations")
            group.create_task(self._remind(), name="reconcile_period")
            group.create_task(self._catch_up(), name="reconcile_missed")
            for number in range(_AT_ONCE):
                group.create_task(self._look_forever(), name=f"reconcile {number}")

    async def look(self, agent_id: str) -> None:
        """Compare the whole node of an agent with the rows, and act on what differs.

        What cannot be seen now is looked at the next time, which is soon.
        """
        self._missed.discard(agent_id)
        try:
            for host in await self._durable.rows(ObservedHost, hosts_of_agent(agent_id)):
                with self._apart(agent_id):
                    await self._look_at_host(agent_id, host)
                    await self._look_at_bridges(agent_id, host)
            for pool in await self._durable.rows(ObservedPool, pools_of_agent(agent_id)):
                with self._apart(agent_id):
                    await self._look_at_pool(agent_id, pool)
        except KowabungaError as error:
            self._miss(agent_id, error)

    async def _look_forever(self) -> None:
        while True:
            agent_id = await self._due.get()
            self._waiting.discard(agent_id)
            if agent_id in self._looking:
                # One that is slow, or calls without end, takes none of the others' places.
                self._again.add(agent_id)
                continue
            self._looking.add(agent_id)
            try:
                await self.look(agent_id)
            finally:
                self._looking.discard(agent_id)
            if agent_id in self._again:
                self._again.discard(agent_id)
                self.agent_connected(agent_id)

    async def _follow_operations(self) -> None:
        while True:
            operation_id = await self._finished.get()
            # Not one that may end the same way at each look: that would be a loop.
            left = Statement(
                "SELECT json_extract(arguments, '$.host_agent') AS agent FROM operation"
                " WHERE id = ? AND agent IS NOT NULL AND ("
                " (kind IN ('kompute_create', 'instance_create') AND state <> 'done')"
                " OR (kind IN ('kompute_delete', 'instance_delete') AND state = 'done')"
                " OR (state = 'failed' AND origin = 'user')"
                " OR (kind = 'instance_update' AND state = 'done' AND origin = 'user'))",
                (operation_id,),
            )
            try:
                agents = [str(row["agent"]) for row in await self._store.query(left)]
            except KowabungaError as error:
                _log.warning("operation_not_followed", problem=str(error))
                continue
            for agent_id in filter(self._gateway.reachable, agents):
                self.agent_connected(agent_id)

    async def _remind(self) -> None:
        everyone = Statement("SELECT id FROM agent WHERE type = 'Kaktus' ORDER BY id")
        while True:
            await self._clock.sleep(PERIOD_S)
            try:
                agents = [str(row["id"]) for row in await self._store.query(everyone)]
            except KowabungaError as error:
                _log.warning("agents_not_listed", problem=str(error))
                continue
            for agent_id in filter(self._gateway.reachable, agents):
                self.agent_connected(agent_id)

    async def _catch_up(self) -> None:
        """Look again at what was not seen: until then a host has no room, and no lost machine."""
        while True:
            await self._clock.sleep(CATCH_UP_S)
            missed, self._missed = self._missed, set()
            for agent_id in filter(self._gateway.reachable, sorted(missed)):
                self.agent_connected(agent_id)

    def _miss(self, agent_id: str, error: KowabungaError) -> None:
        _log.warning("node_not_seen", agent=agent_id, problem=str(error))
        self._missed.add(agent_id)

    @contextmanager
    def _apart(self, agent_id: str) -> Generator[None]:
        """Look at the rest of a node though it refuses to show this part; not if it is silent."""
        try:
            yield
        except DeadlineExceeded:
            raise
        except KowabungaError as error:
            self._miss(agent_id, error)

    # --- looking

    async def _look_at_host(self, agent_id: str, host: ObservedHost) -> None:
        facts = await self._gateway.call(agent_id, COMPUTE_GET_HOST, Nothing())
        # Rows first: what is seen afterwards cannot be older than what was expected.
        rows = await self._durable.rows(ExpectedDomain, expected_domains(host.id))
        seen = (await self._gateway.call(agent_id, COMPUTE_LIST_DOMAINS, Nothing())).domains
        differences = compare_domains(rows, seen)
        things = {domain.domain_id: domain for domain in seen}
        left = {each.target for each in differences if each.trouble is Trouble.LEFT}
        await self._store.batch(
            [
                record_host(host.id, facts),
                *(
                    record_state(row, things[row.id], left=f"instance/{row.id}" in left)
                    for row in rows
                    if row.id in things and _tells_more(row, things[row.id])
                ),
            ]
        )
        for row in rows:
            if row.id in things and things[row.id].reason is DomainReason.IO_ERROR:
                detail = "its guest was stopped when its disk refused a write: is the pool full?"
                await self._alarm("guest_stopped_by_disk", target("instance", row.id), detail)
        for difference in differences:
            await self._act(difference)

    async def _look_at_bridges(self, agent_id: str, host: ObservedHost) -> None:
        seen = (await self._gateway.call(agent_id, NETWORK_LIST_BRIDGES, Nothing())).bridges
        wanted = await self._durable.rows(WantedBridge, wanted_bridges(agent_id))
        if any(compare_bridges(wanted, seen)):
            held = target("kaktus", host.id)
            job = Job(Work(host.id, host_agent=agent_id), (held,))
            await self._submit(_submission(BRIDGES_MEND, job), held)

    async def _look_at_pool(self, agent_id: str, pool: ObservedPool) -> None:
        rows = await self._durable.rows(ExpectedImage, expected_images(pool.storage_pool_id))
        digests = await self._seeds_of(pool, agent_id)
        try:
            seen = await list_images(self._gateway, agent_id, pool.ref)
        except (Unavailable, DriverError) as away:
            if self._gateway.reachable(agent_id):  # the node is there, its disk is not
                held = target("storage_pool", pool.storage_pool_id)
                await self._alarm("pool_unusable", held, str(away))
            raise
        filled = await self._gateway.call(
            agent_id, STORAGE_GET_POOL_STATISTICS, StoragePoolParams(pool.ref)
        )
        if (filled.capacity_bytes, filled.available_bytes) != (
            pool.capacity_bytes,
            pool.available_bytes,
        ):
            await self._store.batch([record_pool(pool.storage_pool_id, filled)])
        for difference in compare_images(rows, seen, digests):
            await self._act(difference)

    async def _seeds_of(self, pool: ObservedPool, agent_id: str) -> Mapping[str, str | None]:
        """Return the seeds to compare; one that cannot be made must not hide the other images."""
        try:
            return await self._seeds.digests(pool.storage_pool_id, of_agent=agent_id)
        except KowabungaError as error:
            _log.warning("seeds_not_compared", pool=pool.storage_pool_id, problem=str(error))
            return {}

    # --- acting

    async def _act(self, difference: Difference) -> None:
        kind, _, object_id = difference.target.partition("/")
        _log.info("difference", target=difference.target, detail=difference.detail)
        if difference.trouble is Trouble.UNKNOWN:
            await self._report_unknown(kind, object_id, difference)
        elif difference.trouble is Trouble.LEFT:
            return  # it was recorded: nothing is to be done
        elif difference.trouble is Trouble.MISSING and kind != "instance":
            # A new image would be an empty one in the place of somebody's data.
            await self._report_missing(object_id, difference)
        else:
            await self._mend(kind, object_id, difference)

    async def _report_missing(self, object_id: str, difference: Difference) -> None:
        """Report a row without its thing, unless it went meanwhile, or somebody is at work."""
        still_wanted = await self._store.query(
            Statement(
                "SELECT 1 AS yes FROM (SELECT id, phase FROM volume"
                " UNION ALL SELECT id, phase FROM template) WHERE id = ? AND phase <> 'deleting'"
                " AND NOT EXISTS (SELECT 1 FROM operation_target WHERE target = ?)",
                (object_id, difference.target),
            ),
            Consistency.LINEARIZABLE,
        )
        if still_wanted:
            await self._alarm("image_missing", difference.target, difference.detail)

    async def _report_unknown(self, kind: str, object_id: str, difference: Difference) -> None:
        """Report a thing without a row, unless its row is elsewhere or came meanwhile."""
        known = await self._store.query(
            Statement(
                "SELECT 1 AS yes FROM instance WHERE id = ? UNION SELECT 1 FROM volume WHERE id = ?"
                " UNION SELECT 1 FROM template WHERE id = ?"
                " UNION SELECT 1 FROM operation_target WHERE target LIKE '%/' || ?",
                (object_id, object_id, object_id, object_id),
            )
        )
        if not known:
            name = "domain_unknown" if kind == "instance" else "image_unknown"
            await self._alarm(name, difference.target, difference.detail)

    async def _mend(self, kind: str, object_id: str, difference: Difference) -> None:
        held, going = target(kind, object_id), difference.trouble is Trouble.GOING
        if self._mends.are_too_many(held):
            await self._alarm("mended_in_vain", held, difference.detail)
            return
        try:
            submission = await self._submission(kind, object_id, going=going)
        except KowabungaError as error:
            _log.warning("not_mended", target=held, problem=str(error))
        else:
            await self._submit(submission, held)

    async def _submit(self, submission: Submission[Work], held: str) -> None:
        try:
            operation_id = await self._engine.submit(submission)
        except Busy:
            return  # somebody is at work: the next look tells whether it sufficed
        except KowabungaError as error:
            _log.warning("not_mended", target=held, problem=str(error))
            return
        self._mends.count(held)
        _log.info("mending", target=held, operation_id=operation_id)

    async def _submission(self, kind: str, object_id: str, *, going: bool) -> Submission[Work]:
        read, durable = self._durable.require, self._durable
        kompute_id: str | None = None
        match kind:
            case "template":
                place = await read(TemplatePlace, template_pool(object_id), f"template {object_id}")
                job = await template_job(durable, object_id, place.storage_pool_id)
                return _submission(TEMPLATE_DELETE, job)
            case "volume":
                volume = await read(VolumeFacts, volume_facts(object_id), f"volume {object_id}")
                kompute_id = volume.kompute_id
                if kompute_id is None:
                    job = await volume_job(durable, volume)
                    return _submission(VOLUME_DELETE if going else VOLUME_UPDATE, job)
            case _:
                instance = await read(
                    InstanceFacts, instance_facts(object_id), f"instance {object_id}"
                )
                kompute_id = instance.kompute_id
                if kompute_id is None:
                    job = await instance_job(durable, instance)
                    return _submission(INSTANCE_DELETE if going else INSTANCE_UPDATE, job)
        kompute = await read(KomputeFacts, kompute_facts(kompute_id), f"kompute {kompute_id}")
        job = await kompute_job(durable, kompute, kompute.list_pools())
        return _submission(KOMPUTE_DELETE if going else KOMPUTE_UPDATE, job)


def _submission(kind: OperationKind[Work], job: Job) -> Submission[Work]:
    return Submission(
        kind=kind,
        arguments=job.work,
        targets=job.targets,
        principal=_PRINCIPAL,
        origin=Origin.RECONCILE,
    )


def _tells_more(row: ExpectedDomain, seen: ObservedDomain) -> bool:
    return (row.observed_state, row.observed_reason) != (seen.state, seen.reason)
