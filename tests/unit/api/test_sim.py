"""Faults are for simulated nodes only."""

import httpx

from appliance.api.app import EXT_PATH


async def test_where_nodes_are_real_nothing_can_be_troubled(master: httpx.AsyncClient) -> None:
    for method, path in (("GET", "nodes"), ("POST", "nodes/k1/cut"), ("POST", "nodes/k1/mend")):
        refused = await master.request(method, f"{EXT_PATH}/sim/{path}")
        assert refused.status_code == 404
        assert "--simulate" in refused.json()["reason"]


async def test_a_stranger_troubles_nothing(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.post(f"{EXT_PATH}/sim/nodes/k1/cut")).status_code == 401
