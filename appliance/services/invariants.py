"""What must be true between rows, and what no constraint of the schema can say: one table of it.

For `kowabunga state verify`, and for a stopped Kahuna's database too: reads only, and of rows only.
Each check holds after every batch, whatever is under way; what may be late is not one.
"""

from dataclasses import dataclass
from typing import Final

from appliance.core.errors import Corrupt
from appliance.store.base import Consistency, Statement, Store


@dataclass(frozen=True, slots=True)
class Check:
    """Selects one `finding`, a sentence, for each row that breaks the rule."""

    name: str
    statement: Statement


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "an operation that has ended holds nothing",
        Statement(
            "SELECT target || ' is held by operation ' || id || ', which has ended' AS finding"
            " FROM operation_target JOIN operation ON operation.id = operation_id"
            " WHERE finished_at_ms IS NOT NULL ORDER BY target"
        ),
    ),
    Check(
        "an operation that goes on holds all its targets",
        Statement(
            "SELECT wanted.value || ' is not held by operation ' || operation.id"
            " || ', which works on it' AS finding"
            " FROM operation, json_each(operation.targets) AS wanted"
            " WHERE finished_at_ms IS NULL AND NOT EXISTS (SELECT 1 FROM operation_target AS held"
            " WHERE held.target = wanted.value AND held.operation_id = operation.id)"
            " ORDER BY wanted.value"
        ),
    ),
    Check(
        "who holds a target has its highest fence",
        Statement(
            "SELECT target || ' is held under fence ' || held.fence || ', and '"
            " || coalesce((SELECT fence FROM target_fence AS last WHERE last.target = held.target),"
            " 'none') || ' was given out last' AS finding FROM operation_target AS held"
            " WHERE held.fence IS NOT"
            " (SELECT fence FROM target_fence AS last WHERE last.target = held.target)"
            " ORDER BY target"
        ),
    ),
    Check(
        "what is being made is made by an operation",
        Statement(
            "SELECT name || ' is being made, and no operation works on it' AS finding FROM ("
            " SELECT 'kompute/' || id AS name FROM kompute WHERE phase = 'creating'"
            " UNION ALL SELECT 'instance/' || id FROM instance WHERE phase = 'creating'"
            " UNION ALL SELECT 'volume/' || id FROM volume WHERE phase = 'creating'"
            " UNION ALL SELECT 'template/' || id FROM template WHERE phase = 'creating'"
            ") WHERE name NOT IN (SELECT target FROM operation_target) ORDER BY name"
        ),
    ),
    Check(
        "a Kompute has an instance",
        Statement(
            "SELECT 'kompute/' || id || ' has no instance' AS finding FROM kompute"
            " WHERE NOT EXISTS (SELECT 1 FROM instance WHERE kompute_id = kompute.id) ORDER BY id"
        ),
    ),
    Check(
        "a Kompute and its instance are in one project and zone",
        Statement(
            "SELECT 'kompute/' || kompute.id || ' and instance/' || instance.id"
            " || ' are not of one project and zone' AS finding"
            " FROM kompute JOIN instance ON instance.kompute_id = kompute.id"
            " JOIN kaktus ON kaktus.id = instance.kaktus_id"
            " WHERE (instance.project_id, kaktus.zone_id) IS NOT (kompute.project_id,"
            " kompute.zone_id)"
            " ORDER BY kompute.id"
        ),
    ),
    Check(
        "the parts of a Kompute are in its instance",
        Statement(
            "SELECT part || ' of kompute/' || parts.kompute_id || ' is not in its instance'"
            " AS finding"
            " FROM (SELECT 'volume/' || id AS part, kompute_id, instance_id FROM volume"
            " UNION ALL SELECT 'adapter/' || id, kompute_id, instance_id FROM adapter) AS parts"
            " WHERE parts.kompute_id IS NOT NULL AND parts.instance_id IS NOT"
            " (SELECT instance.id FROM instance WHERE instance.kompute_id = parts.kompute_id)"
            " ORDER BY part"
        ),
    ),
    Check(
        "an instance has one volume with a system, and its volumes are of its project",
        Statement(
            "SELECT 'instance/' || id || ' has ' || systems || ' volumes with a system and '"
            " || foreigners || ' of another project' AS finding FROM (SELECT instance.id,"
            " count(*) FILTER (WHERE volume.type = 'os') AS systems,"
            " count(*) FILTER (WHERE volume.project_id <> instance.project_id) AS foreigners"
            " FROM instance LEFT JOIN volume ON volume.instance_id = instance.id"
            " GROUP BY instance.id) WHERE systems <> 1 OR foreigners <> 0 ORDER BY id"
        ),
    ),
    Check(
        "a clone is in the pool of its template",
        Statement(
            "SELECT 'volume/' || volume.id || ' is not in the pool of its template/' || template.id"
            " AS finding FROM volume JOIN template ON template.id = template_id"
            " WHERE volume.storage_pool_id <> template.storage_pool_id ORDER BY volume.id"
        ),
    ),
    Check(
        "nothing is seen that was never wished for",
        Statement(
            "SELECT name || ' is seen as of generation ' || observed_generation || ', and"
            " wished for'"
            " || ' as of ' || generation AS finding FROM (SELECT 'instance/' || id AS name,"
            " generation,"
            " observed_generation FROM instance UNION ALL SELECT 'volume/' || id, generation,"
            " observed_generation FROM volume) WHERE observed_generation > generation ORDER BY name"
        ),
    ),
    Check(
        "an address is in the subnet of its adapter",
        Statement(
            "SELECT 'adapter/' || adapter.id || ' has an address that is not of its subnet/'"
            " || adapter.subnet_id AS finding FROM adapter_address JOIN adapter ON adapter.id ="
            " adapter_id JOIN subnet ON subnet.id = adapter.subnet_id"
            " WHERE adapter_address.subnet_id <> adapter.subnet_id"
            " OR address NOT BETWEEN first_usable AND last_usable ORDER BY adapter.id"
        ),
    ),
    Check(
        "a private network is used by its own project",
        Statement(
            "SELECT 'adapter/' || adapter.id || ' joins instance/' || instance.id"
            " || ' to a private network of another project' AS finding"
            " FROM adapter JOIN instance ON instance.id = adapter.instance_id"
            " JOIN subnet ON subnet.id = adapter.subnet_id JOIN vnet ON vnet.id = subnet.vnet_id"
            " WHERE vnet.private = 1 AND EXISTS (SELECT 1 FROM project_region AS own"
            " WHERE own.subnet_id = subnet.id AND own.project_id <> instance.project_id)"
            " ORDER BY adapter.id"
        ),
    ),
    Check(
        "a project's subnet is in its region",
        Statement(
            "SELECT 'project/' || project_id || ' has subnet/' || subnet.id || ' of another region'"
            " AS finding FROM project_region JOIN subnet ON subnet.id = subnet_id"
            " JOIN vnet ON vnet.id = vnet_id WHERE vnet.region_id <> project_region.region_id"
            " ORDER BY project_id"
        ),
    ),
    Check(
        "the load of a host is the sum of its instances",
        Statement(
            "SELECT 'kaktus/' || kaktus.id || ' is said to run ' || coalesce(load.instances, 'no')"
            " || ' instances, and ' || count(instance.id) || ' are on it, or their sizes differ'"
            " AS finding FROM kaktus LEFT JOIN kaktus_load AS load ON load.kaktus_id = kaktus.id"
            " LEFT JOIN instance ON instance.kaktus_id = kaktus.id GROUP BY kaktus.id"
            " HAVING (load.instances, load.vcpus, load.memory_bytes) IS NOT"
            " (count(instance.id), coalesce(sum(instance.vcpus), 0),"
            " coalesce(sum(instance.memory_bytes), 0)) ORDER BY kaktus.id"
        ),
    ),
    Check(
        "a secret has an owner",
        Statement(
            "SELECT 'secret ' || name || ' belongs to ' || owner || ', which does not exist'"
            " AS finding FROM secret WHERE owner <> 'cluster' AND owner NOT IN ("
            " SELECT 'agent/' || id FROM agent UNION ALL SELECT 'instance/' || id FROM instance"
            " UNION ALL SELECT 'project/' || id FROM project"
            " UNION ALL SELECT 'user/' || id FROM user"
            " UNION ALL SELECT 'certificate_authority/' || id FROM certificate_authority)"
            " ORDER BY owner, name"
        ),
    ),
    Check(
        "what cannot be without a secret has it",
        Statement(
            "SELECT owner || ' has no secret ' || name AS finding FROM ("
            " SELECT 'agent/' || id AS owner, 'verifier' AS name FROM agent WHERE credential"
            " = 'hmac'"
            " UNION ALL SELECT 'certificate_authority/' || id, 'key' FROM certificate_authority)"
            " WHERE (owner, name) NOT IN (SELECT owner, name FROM secret) ORDER BY owner"
        ),
    ),
    Check(
        "every member has every data key",
        Statement(
            "SELECT 'node ' || node.name || ' cannot get data key ' || data_key.id AS finding"
            " FROM node CROSS JOIN data_key WHERE NOT EXISTS (SELECT 1 FROM data_key_wrap AS wrap"
            " WHERE wrap.node_id = node.id AND wrap.data_key_id = data_key.id)"
            " ORDER BY node.name, data_key.id"
        ),
    ),
)


async def verify_rows(store: Store) -> list[str]:
    """Return what is wrong, one sentence each; empty when all is well."""
    findings: list[str] = []
    for check in CHECKS:
        try:
            rows = await store.query(check.statement, Consistency.LINEARIZABLE)
        except Corrupt as damage:
            findings.append(f"whether {check.name} cannot be read: {damage.detail}")
        else:
            findings += [str(row["finding"]) for row in rows]
    return findings
