from typing import Annotated

import msgspec
import pytest
from msgspec import UNSET

from appliance.resources.cost import Cost, free
from appliance.resources.fields import Maybe, about, given, merged, with_defaults
from appliance.resources.kaktus import Kaktus
from appliance.resources.project import Project, ProjectResources
from appliance.resources.storage_pool import StoragePool


class Thing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[Maybe[str], about("Id", read_only=True)] = UNSET
    name: Annotated[str, about("Name")]
    text: Annotated[Maybe[str], about("Text", implied="")] = UNSET
    port: Annotated[Maybe[int], about("Port", default=80)] = UNSET
    words: Annotated[Maybe[list[str]], about("Words", implied=[])] = UNSET
    loose: Annotated[Maybe[str], about("No default")] = UNSET


def _sent(text: str) -> Thing:
    return msgspec.json.decode(text, type=Thing)


@pytest.mark.parametrize(
    "sent",
    [
        '{"name":"a"}',
        '{"name":"a","text":null,"port":null,"words":null,"loose":null}',
        '{"name":"a","id":"chosen by the client"}',
    ],
)
def test_absent_and_null_take_the_default_and_read_only_is_dropped(sent: str) -> None:
    assert with_defaults(_sent(sent)) == Thing(name="a", text="", port=80, words=[])


def test_what_was_sent_is_kept_zero_and_empty_too() -> None:
    sent = '{"name":"a","text":"","port":0,"words":[],"loose":""}'
    assert with_defaults(_sent(sent)) == Thing(name="a", text="", port=0, words=[], loose="")


def test_defaults_are_not_shared() -> None:
    first, second = with_defaults(Thing(name="a")), with_defaults(Thing(name="b"))
    given(first.words, []).append("x")
    assert second.words == []
    kaktus = with_defaults(Kaktus(name="k", agents=[]))
    given(kaktus.cpu_cost, free()).price = 7.0
    assert with_defaults(Kaktus(name="k", agents=[])).cpu_cost == Cost(price=0.0, currency="EUR")


def test_nested_structs_get_their_defaults() -> None:
    project = Project(name="p", teams=[], regions=[], quotas=ProjectResources(vcpus=4))
    assert with_defaults(project).quotas == ProjectResources(
        vcpus=4, memory=0, storage=0, instances=0
    )
    without = Project(name="p", teams=[], regions=[])
    assert with_defaults(without).quotas == ProjectResources(
        vcpus=0, memory=0, storage=0, instances=0
    )


def test_pool_address_that_was_left_out_stays_empty_but_the_port_has_its_default() -> None:
    pool = with_defaults(StoragePool(name="p", pool="rbd", agents=[]))
    assert (pool.ceph_address, pool.ceph_port) == ("", 3300)


STORED = Thing(id="1", name="a", text="old", port=1, words=["x", "y"], loose="l")


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        ('{"name":"b"}', Thing(id="1", name="b", text="old", port=1, words=["x", "y"], loose="l")),
        (
            '{"name":"b","text":null,"port":null,"words":null}',
            Thing(id="1", name="b", text="old", port=1, words=["x", "y"], loose="l"),
        ),
        (
            '{"name":"a","text":"","port":0,"words":[]}',
            Thing(id="1", name="a", text="", port=0, words=[], loose="l"),
        ),
        (
            '{"id":"2","name":"a","words":["z"]}',
            Thing(id="1", name="a", text="old", port=1, words=["z"], loose="l"),
        ),
    ],
)
def test_update_keeps_what_was_left_out_and_replaces_what_was_sent(sent: str, left: Thing) -> None:
    assert merged(STORED, _sent(sent)) == left


def test_update_of_one_quota_keeps_the_others() -> None:
    stored = with_defaults(
        Project(name="p", teams=[], regions=[], quotas=ProjectResources(vcpus=4, memory=5))
    )
    sent = Project(name="p", teams=[], regions=[], quotas=ProjectResources(vcpus=0))
    assert merged(stored, sent).quotas == ProjectResources(
        vcpus=0, memory=5, storage=0, instances=0
    )


def test_update_of_an_object_with_what_was_read_changes_nothing() -> None:
    read = msgspec.json.decode(msgspec.json.encode(STORED), type=Thing)
    assert merged(STORED, read) == STORED
