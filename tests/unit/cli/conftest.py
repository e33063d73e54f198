"""The command line against a real simulated cloud, in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.cli.main import run
from appliance.roles.kahuna import KahunaConfig, Ready
from appliance.roles.simulate import run_simulation
from tests.support.logs import captured_logs


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Ready]:
    config = KahunaConfig(
        state=tmp_path / "state", host="127.0.0.1", port=0, node_name="n1", plain=True
    )
    started: list[Ready] = []
    up, loops = threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]]()

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        loops.append((asyncio.get_running_loop(), task))

        def ready(answer: Ready) -> None:
            started.append(answer)
            up.set()

        await run_simulation(config, ready=ready)

    def work() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        finally:
            up.set()

    thread = threading.Thread(target=work)
    with captured_logs():
        thread.start()
        assert up.wait(60)
        assert started, "the simulation did not start"
        monkeypatch.setenv("KOWABUNGA_SOCKET", str(started[0].local_socket))
        yield started[0]
        loop, task = loops[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Result(int(code), told.out, told.err)

    return call
