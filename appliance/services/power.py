"""Power of instances: what people wish for, and what their hosts see."""

from typing import Final

from appliance.core.errors import Invalid, KowabungaError
from appliance.model.domain_state import Power
from appliance.model.target import target
from appliance.operations.operation import Operation
from appliance.operations.step import Submission
from appliance.resources.instance import (
    InstanceFacts,
    InstanceState,
    instance_facts,
    instance_facts_of_kompute,
    set_power,
)
from appliance.resources.instance_work import INSTANCE_POWER, PowerAction
from appliance.resources.kompute import KOMPUTES
from appliance.resources.work import Work
from appliance.rpc.compute import COMPUTE_GET_DOMAIN, DomainRef
from appliance.rpc.gateway import AgentGateway
from appliance.services.catalog import AnyView, check_id, missing
from appliance.services.durable import Asked, Begun, Durable, refuse_going

_STATE_S: Final = 3.0  # asked every few seconds for each machine on a screen

# What a guest must be for these; the others lead somewhere from every state.
_ONLY_FROM: Final = {
    PowerAction.REBOOT: (Power.RUNNING,),
    PowerAction.RESET: (Power.RUNNING, Power.PAUSED),
    PowerAction.SUSPEND: (Power.RUNNING, Power.PAUSED),
    PowerAction.RESUME: (Power.PAUSED, Power.RUNNING),
}


class Machines:
    """Power actions and states, for an instance by its id or by that of its Kompute."""

    def __init__(self, durable: Durable, gateway: AgentGateway) -> None:
        self._durable = durable
        self._gateway = gateway

    async def act(
        self, asked: Asked, view: AnyView, object_id: str, action: PowerAction
    ) -> Begun[None]:
        """Do what was asked; the state that it leads to is wanted from now on.

        Raises:
            NotFound: it does not exist.
            Invalid: it cannot be done from the state that is wanted now.
            Unavailable: no agent of its host is connected.
        """

        async def prepare() -> Submission[Work]:
            facts = await self.facts(view, object_id)
            refuse_going(view.kind, object_id, facts.phase)
            allowed = _ONLY_FROM.get(action, tuple(Power))
            if facts.power not in allowed:
                raise Invalid(
                    f"{view.title} {object_id} is {facts.power}: {action} needs it to be"
                    f" {' or '.join(allowed)}",
                    hint="start it first",
                )
            desired = facts.power if action is PowerAction.RESET else action.desired
            return Submission(
                kind=INSTANCE_POWER,
                arguments=Work(
                    facts.id,
                    instance_id=facts.id,
                    host_agent=self._durable.agent_among(
                        facts.list_agents(), f"Kaktus {facts.host_name}"
                    ),
                    action=action.value,
                ),
                targets=(target("instance", facts.id),),
                principal=asked.principal,
                request_key=asked.key,
                statements=(set_power(facts.id, desired),),
            )

        async def after(_: Operation) -> None:
            return

        return await self._durable.begin(asked, INSTANCE_POWER, prepare, after)

    async def state(self, view: AnyView, object_id: str) -> InstanceState:
        """Return what the host sees now, or else what was last seen and why it is not new.

        Raises:
            NotFound: it does not exist.
        """
        facts = await self.facts(view, object_id)
        agent_id = next(filter(self._gateway.reachable, facts.list_agents()), None)
        if agent_id is None:
            why = f"the agent of Kaktus {facts.host_name} is not connected"
            return InstanceState(
                state=facts.observed_state, reason=f"{facts.observed_reason}, last seen so: {why}"
            )
        try:
            seen = await self._gateway.call(
                agent_id, COMPUTE_GET_DOMAIN, DomainRef(facts.id), timeout_s=_STATE_S
            )
        except KowabungaError as error:
            return InstanceState(
                state=facts.observed_state,
                reason=f"{facts.observed_reason}, last seen so: {error.detail}",
            )
        return InstanceState(state=seen.state, reason=seen.reason)

    async def facts(self, view: AnyView, object_id: str) -> InstanceFacts:
        """Return the visible instance that the id stands for.

        Raises:
            NotFound: it does not exist.
        """
        check_id(view, object_id)
        by_kompute = view is KOMPUTES
        statement = (instance_facts_of_kompute if by_kompute else instance_facts)(object_id)
        found = await self._durable.rows(InstanceFacts, statement)
        if not found or found[0].phase == "creating":
            raise missing(view, object_id)
        return found[0]
