"""Which configurations a Kahuna refuses, and what a start leaves behind when it fails."""

from pathlib import Path

import pytest

from appliance.api.listener import bind_tcp
from appliance.core.clock import SystemClock
from appliance.core.errors import Conflict, Invalid
from appliance.roles.kahuna import KahunaConfig, open_kahuna


def config(state: Path, *, host: str = "127.0.0.1", port: int = 0) -> KahunaConfig:
    return KahunaConfig(state=state, host=host, port=port, node_name="n1", plain=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "kahuna.example"])
async def test_plain_http_is_refused_beyond_loopback(tmp_path: Path, host: str) -> None:
    with pytest.raises(Invalid, match="clear text"):
        async with open_kahuna(config(tmp_path / "state", host=host), SystemClock()):
            pytest.fail("it opened")
    assert not (tmp_path / "state").exists()


async def test_a_taken_port_is_told_and_lets_go_of_the_state(tmp_path: Path) -> None:
    with bind_tcp("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(Conflict, match="cannot listen"):
            async with open_kahuna(
                config(tmp_path / "state", port=taken.getsockname()[1]), SystemClock()
            ):
                pytest.fail("it opened")
    async with open_kahuna(config(tmp_path / "state"), SystemClock()) as kahuna:
        assert kahuna.services.reach.agent_url.startswith("ws://127.0.0.1:")


async def test_a_second_kahuna_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async with open_kahuna(config(tmp_path / "state"), SystemClock()):
        with pytest.raises(Conflict, match="held by process"):
            async with open_kahuna(config(tmp_path / "state"), SystemClock()):
                pytest.fail("it opened")
