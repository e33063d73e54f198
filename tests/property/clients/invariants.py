"""What must never be, whatever clients did: queries without an answer."""

from collections.abc import Iterator
from typing import Final

from appliance.store.base import Consistency, Statement, Store
from tests.property.allocation.world import INVARIANTS

_NAMED: Final = (
    "region", "zone", "kiwi", "kaktus", "vnet", "subnet", "storage_pool", "team", "user", "agent",
    "project", "kompute", "instance", "volume", "adapter",
)  # fmt: skip
# By the column of the quota: the sum that it limits.
_SUMS: Final = {
    "quota_vcpus": "SUM(vcpus), 0) FROM instance",
    "quota_memory": "SUM(memory_bytes), 0) FROM instance",
    "quota_storage": "SUM(size_bytes), 0) FROM volume",
    "quota_instances": "COUNT(*), 0) FROM instance",
}


def _invariants() -> Iterator[tuple[str, str]]:
    yield from INVARIANTS.items()
    yield (
        "a MAC that two have",
        "SELECT lower(mac) FROM adapter WHERE reserved = 0 GROUP BY lower(mac) HAVING COUNT(*) > 1",
    )
    for table in _NAMED:
        yield (
            f"a name that two have: {table}",
            f"SELECT lower(name) FROM {table} GROUP BY lower(name) HAVING COUNT(*) > 1",
        )
    yield (
        "a mail address that two log in with",
        "SELECT lower(email) FROM user GROUP BY lower(email) HAVING COUNT(*) > 1",
    )
    for quota, used in _SUMS.items():
        yield (
            f"a quota that was passed: {quota}",
            f"SELECT id FROM project WHERE {quota} > 0 AND {quota} <"
            f" (SELECT coalesce({used} WHERE project_id = project.id)",
        )
    yield (
        "a host that has more than it holds",
        "SELECT kaktus.id FROM kaktus JOIN kaktus_load AS load ON load.kaktus_id = kaktus.id"
        " WHERE load.vcpus > cpu_threads * overcommit_cpu_ratio"
        " OR load.memory_bytes > kaktus.memory_bytes * overcommit_memory_ratio",
    )
    yield (
        "a hidden or doomed object that nobody works on",
        "SELECT id FROM (SELECT 'kompute/' || id AS id, phase FROM kompute"
        " UNION SELECT 'instance/' || id, phase FROM instance"
        " UNION SELECT 'volume/' || id, phase FROM volume"
        " UNION SELECT 'template/' || id, phase FROM template)"
        " WHERE phase NOT IN ('ready')",
    )
    yield (
        "a lock without an operation",
        "SELECT target FROM operation_target JOIN operation ON operation.id = operation_id"
        " WHERE finished_at_ms IS NOT NULL",
    )


async def broken(store: Store) -> dict[str, object]:
    """Return by the name of each invariant the rows that break it, once all work has ended."""
    return {
        name: rows
        for name, sql in _invariants()
        if (rows := await store.query(Statement(sql), Consistency.LINEARIZABLE))
    }
