"""The walk of the guides: everything made, found unchanged, changed in place, and destroyed."""

import pytest

from tests.contract.clients.terraform import Terraform, create_all, update_all

pytestmark = pytest.mark.timeout(600)


async def test_walk_of_the_guides_as_terraform_orders_it(terraform: Terraform) -> None:
    tf = terraform
    made = await create_all(tf)
    assert await tf.plan() == {}
    await update_all(tf, made)
    differing = await tf.plan()
    # The added region has its subnet, which only the server knows of.
    was, now = differing.pop(f"/project/{made.project}")
    assert {each["key"]: each["value"] for each in now["private_subnets"]} == {
        "eu-west": made.subnets["projects"],
        "eu-north": made.subnets["north"],
    }
    assert was | {"private_subnets": now["private_subnets"]} == now
    assert differing == {}
    for each in reversed(tf.made):
        assert await tf.ask(200, "DELETE", each.path) is None
        await tf.ask(404, "GET", each.path)
        await tf.ask(404, "DELETE", each.path)
    for kind in {each.kind for each in tf.made}:
        assert await tf.ask(200, "GET", f"/{kind}") == []
    verified = await tf.client.post("/api/ext/v1/state/verify")
    assert verified.json() == {"findings": []}


async def test_what_every_client_may_do_with_any_kind(terraform: Terraform) -> None:
    """Without a look at the kind: names, repeats, strange places, the whole object sent back."""
    tf = terraform
    made = await create_all(tf)
    for each in tf.made:
        # Under its name an object is not found, but by a look at all of them it is.
        await tf.ask(404, "GET", f"/{each.kind}/{each.state['name']}")
        assert await tf.resolve(each.kind, each.state["name"]) is not None
        # The create once more: the name is taken, and the reason tells by whom.
        taken = await tf.ask(409, "POST", each.place, each.sent)
        assert each.id in taken["reason"], (each.kind, taken)
        # Ansible and Koala send back what they read, with its id and all that is computed.
        assert await tf.ask(200, "PUT", each.path, each.state) == each.state
    for each in tf.made:
        ids = await tf.ask(200, "GET", f"/{each.kind}")
        mine = [other.id for other in tf.made if other.kind == each.kind]
        assert [found for found in ids if found in mine] == mine  # in order of creation
        for found in ids:  # Ansible stops at the first that it may not read
            await tf.ask(200, "GET", f"/{each.kind}/{found}")
    referred_to = (
        *(f"/region/{made.region}", f"/zone/{made.zone}", f"/vnet/{made.vnet}"),
        *(f"/subnet/{made.private}", f"/pool/{made.pool}", f"/team/{made.team}"),
        *(f"/project/{made.project}", f"/kaktus/{made.kaktus}", f"/adapter/{made.adapter}"),
        *(f"/volume/{each}" for each in made.volumes),
        *(f"/agent/{each}" for each in made.agents.values()),
    )
    for path in referred_to:
        refused = await tf.ask(409, "DELETE", path)
        assert refused["reason"]
        assert (await tf.ask(200, "GET", path))["id"]
    assert await tf.plan() == {}
