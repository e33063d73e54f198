"""Lists of agents, as nodes and pools have them: how they are sent to SQL, and why one is refused.

Foreign keys and unique indexes keep the lists right; the queries that explain a refusal are those
of each kind.
"""

from appliance.core.errors import Invalid
from appliance.resources.agent import NodeAgentType
from appliance.resources.names import quoted
from appliance.store.base import Row


def refuse_agent(row: Row, wanted: NodeAgentType) -> None:
    """Refuse the agent of a row: `position`, `id`, its `type` if it exists, `taken_by` a node.

    Raises:
        Invalid: always.
    """
    field = f"agents[{row['position']}]"
    agent = quoted(str(row["id"]))
    if row["type"] is None:
        raise Invalid(
            f"{field} names agent {agent}, which does not exist",
            field=field,
            hint="register the agent first",
        )
    if row["type"] != wanted:
        raise Invalid(
            f"{field} names agent {agent}, which is of type {row['type']}, not {wanted}",
            field=field,
        )
    raise Invalid(
        f"{field} names agent {agent}, which acts for {quoted(str(row['taken_by']))} already",
        field=field,
        hint="an agent is one machine and acts for one node",
    )
