"""`./build.sh demo [up|down|status]`: an all-in-one node and a virtual machine on it.

Read `up` from top to bottom: that is the whole demo. It uses Python's own library alone, and of
the project only the executable and its REST API, as anybody else would.
"""

import argparse
import os
import sys
from pathlib import Path

from demo import cloud, guest, hypervisor, network, node
from demo.places import Places
from demo.progress import Failed, Steps
from demo.state import State

EXECUTABLE = Path("dist/kowabunga").resolve()
CACHE = Path(".cache/demo").resolve()
REAL_NODE = Path("/etc/kowabunga/node.yaml")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./build.sh demo", description="A node and a real VM.")
    parser.add_argument("verb", nargs="?", choices=["up", "down", "status"], default="up")
    parser.add_argument("--image", help="another cloud image: its URL (http, https) or its path")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/kowabunga-demo"))
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("demo: needs root, for a bridge and a hypervisor: sudo ./build.sh demo")
    places = Places(arguments.state.absolute())
    try:
        match arguments.verb:
            case "up":
                up(places, arguments.image)
            case "down":
                down(places)
            case _:
                status(places)
    except Failed as failed:
        sys.stderr.write(f"\ndemo: {failed}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "\ndemo: interrupted; the same command goes on, or: ./build.sh demo down\n"
        )
        return 130
    return 0


def up(places: Places, image: str | None) -> None:
    """Bring everything there, step by step; what is there already is left as it is."""
    if REAL_NODE.exists():
        raise Failed(
            f"this machine is a Kowabunga node ({REAL_NODE}); the demo wants one that is not"
        )
    steps = Steps()
    places.make()
    state = State.load(places.state_file)
    with steps.step("network: a link, its addresses, NAT"):
        network.ensure(state)
    with steps.step("libvirt, one of its own"):
        hypervisor.ensure(places, state)
    with steps.step("node: roles kahuna and kaktus, from dist/kowabunga") as step:
        node.ensure(places, state, EXECUTABLE)
        step.note(node.acceleration(places, EXECUTABLE))
    api = cloud.Api(places, state)
    with steps.step("region, zone, kaktus, virtual network, storage pool"):
        made = cloud.ensure_places(api, places, state)
    if not cloud.has_template(api):
        with guest.source(image, CACHE, steps) as (source, local), steps.step("template: import"):
            cloud.ensure_template(api, made, source, local=local)
    with steps.step("team, project, virtual machine"):
        guest.ensure_key(places)
        machine = cloud.ensure_machine(api, places, made)
    if state.set_up != machine.id:
        with steps.step(f"{machine.name} boots, cloud-init sets it up"):
            guest.wait_until_set_up(places, machine)
        state.set_up = machine.id
        state.save()
    with steps.step(f"ssh {machine.user}@{machine.address} uname -a"):
        answer = guest.ssh(places, machine, "uname -a", timeout_s=60)
    steps.end()
    print(f"\n{answer.strip()}\n")
    print(places.explain(machine, state))


def down(places: Places) -> None:
    """Take everything away again, also what a broken-off start has left; the cache stays."""
    if not places.top.exists():
        print("demo: nothing is there")
        return
    steps = Steps()
    state = State.load(places.state_file)
    with steps.step("node"):
        node.stop(places, EXECUTABLE)
    with steps.step("virtual machines and libvirt"):
        hypervisor.stop(places, state)
    with steps.step("network"):
        network.remove(state)
    places.remove()
    steps.end()


def status(places: Places) -> None:
    """Say what runs."""
    if not places.state_file.exists():
        print("demo: not started")
        return
    state = State.load(places.state_file)
    print(node.status(places, EXECUTABLE).strip())
    machine = cloud.find_machine(cloud.Api(places, state))
    if machine is not None:
        print(f"\n{places.explain(machine, state)}")


if __name__ == "__main__":
    sys.exit(main())
