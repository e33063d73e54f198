"""The table of nouns fits the routes and the Structs, and what derives from it is sound."""

import re
from typing import Any

import pytest
from click.shell_completion import split_arg_string

from appliance.api.v1.routes import ROUTES
from appliance.cli.main import root
from appliance.cli.noun import Noun
from appliance.cli.nouns import NOUNS
from appliance.cli.output import Format, Item, show_list, show_one
from appliance.cli.plan import body_of, compare
from appliance.cli.shape import Field, Kind, columns_of, fields_of, load
from appliance.cli.sizes import human_size, parse_size
from tests.unit.cli.test_command_line import leaves

EVERY = pytest.mark.parametrize("noun", NOUNS.values(), ids=lambda noun: noun.name)


def fields(name: str) -> tuple[Field, ...]:
    return fields_of(load(NOUNS[name].struct), NOUNS[name].sizes)


def by_name(name: str) -> dict[str, Field]:
    return {field.name: field for field in fields(name)}


def requests_of(noun: Noun) -> set[tuple[str, str]]:
    """Return the requests that the commands of a noun send."""

    def below(nouns: tuple[str, ...]) -> str:
        return "".join(f"/{name}/*" for name in nouns)

    one = f"/{noun.name}/*"
    sent = {("GET", f"/{noun.name}"), ("GET", one), ("PUT", one), ("DELETE", one)}
    sent.add(("POST", f"{below(noun.below)}/{noun.name}"))
    sent |= {("GET", f"{below(parents)}/{noun.plural_name}") for parents in noun.lists}
    sent |= {("GET", f"{one}/{reading.verb}") for reading in noun.readings}
    sent |= {("PATCH", f"{one}/{action.verb}") for action in noun.actions}
    if noun.default_of:
        sent.add(("PATCH", f"{below((noun.default_of,))}{one}/default"))
    return sent


def test_commands_and_routes_are_the_same_both_ways() -> None:
    served = {(route.method, re.sub(r"{\w+}", "*", route.path)) for route in ROUTES}
    sent = {request for noun in NOUNS.values() for request in requests_of(noun)}
    sent.add(("PUT", "/user/*/password"))  # `user password`
    served -= {("POST", "/login"), ("POST", "/logout")}  # commands have keys
    assert served == sent


def test_every_query_parameter_of_a_route_is_an_option() -> None:
    served = {
        (route.path.rpartition("/")[2], query.name)
        for route in ROUTES
        for query in route.query
        if route.method != "GET"
    }
    offered = {(noun.name, query.name) for noun in NOUNS.values() for query in noun.queries}
    offered |= {
        (action.verb, query.name)
        for noun in NOUNS.values()
        for action in noun.actions
        for query in action.queries
    }
    assert offered == served


@EVERY
def test_an_entry_names_fields_and_nouns_that_exist(noun: Noun) -> None:
    names = set(by_name(noun.name))
    assert {*noun.references, *noun.sizes, *noun.secrets, *noun.columns} <= names
    queried = {query.noun for query in noun.queries if query.noun}
    assert {*noun.references.values(), *noun.below, *noun.listed_below, *queried} <= set(NOUNS)


@EVERY
def test_options_of_a_noun_are_distinct(noun: Noun) -> None:
    for path, command in leaves(root):
        if path.startswith(f"{noun.name} "):
            options = [name for option in command.params for name in option.opts]
            assert len(options) == len(set(options)), path


def test_the_examples_of_all_resource_commands_can_be_parsed() -> None:
    parsed = 0
    for path, command in leaves(root):
        noun, _, verb = path.partition(" ")
        example = re.search(
            rf"Example: kowabunga {noun} {verb} (.*)", command.epilog or "", re.DOTALL
        )
        if noun in NOUNS and example:
            words = split_arg_string(" ".join(example[1].split()))
            command.make_context(path, words)
            parsed += 1
    assert parsed > 15 * 5


def test_options_follow_the_types_of_the_struct() -> None:
    kompute, subnet, project = by_name("kompute"), by_name("subnet"), by_name("project")
    assert (kompute["disk"].kind, kompute["disk"].needed) == (Kind.SIZE, True)
    assert kompute["data_disk"].default_text == "0B"
    assert kompute["ip"].read_only
    assert subnet["application"].choices == ("user", "ceph")
    assert (subnet["gw_pool"].pair, subnet["gw_pool"].many) == (("first", "last"), True)
    assert project["quotas.vcpus"].words == "quota-vcpus"
    assert project["metadatas"].words == "metadata"
    assert by_name("kaktus")["cpu_cost.price"].words == "cpu-price"
    assert by_name("pool")["cost.currency"].words == "currency"
    assert by_name("adapter")["addresses"].words == "address"
    assert by_name("vnet")["private"].default_text == "yes"


@EVERY
def test_every_field_that_a_client_may_send_has_help(noun: Noun) -> None:
    assert all(field.about for field in fields(noun.name))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("1K", 1024), ("512MiB", 512 * 2**20), ("10GiB", 10 * 2**30),
        ("10G", 10 * 2**30), ("1.5T", 3 * 2**39), ("2 GiB", 2**31), ("7B", 7),
    ],
)  # fmt: skip
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1GB", "1.3", "1e3", "1Gib", "0x10", "9" * 30])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (1023, "1023B"), (1024, "1KiB"), (2**30, "1GiB"), (3 * 2**29, "1.5GiB"),
        (2**60, "1024PiB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_as_people_read_it(size: int, text: str) -> None:
    assert human_size(size) == text


def monster(noun: str) -> Item:
    """Return an object whose texts are long, wide and hostile."""
    item: Item = {}
    values: dict[Kind, Any] = {
        Kind.INTEGER: 2**62, Kind.SIZE: 2**49 + 1, Kind.NUMBER: 123456789.123, Kind.FLAG: True,
    }  # fmt: skip
    for field in fields(noun):
        value = values.get(field.kind, "計算機\x1b[31m\u202e\r\n" * 30)
        if field.kind is Kind.PAIR:
            value = dict.fromkeys(field.pair, "x" * 40)
        *outer, last = field.path
        inside = item
        for name in outer:
            inside = inside.setdefault(name, {})
        inside[last] = [value, value] if field.many else value
    return item | {"id": "0" * 24}


@EVERY
def test_tables_fit_80_columns_whatever_the_names_hold(
    noun: Noun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    columns = columns_of(fields(noun.name), noun.columns, noun.secrets)
    show_list([monster(noun.name)] * 2, columns, Format.TABLE, "name")
    out = capsys.readouterr().out
    wide = sum(character in "計算機" for character in out.splitlines()[1])
    assert all(len(line) + wide <= 80 for line in out.splitlines()[1:])
    assert wide, "the names are wide"
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("0" * 24) == 2
    assert len(out.splitlines()) == 3


def test_a_secret_is_never_shown_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    noun = NOUNS["project"]
    item = {"id": "0" * 24, "name": "shop", "root_password": "hunter2"}
    columns = columns_of(fields("project"), noun.columns, noun.secrets)
    show_one(item, columns, Format.WIDE, "name")
    show_list([item], columns, Format.WIDE, "name")
    out = capsys.readouterr().out
    assert "***" in out
    assert "hunter2" not in out


def test_a_put_sends_what_changes_and_what_the_api_insists_on() -> None:
    stored: Item = {
        "id": "0" * 24, "name": "h", "description": "old", "overcommit_cpu_ratio": 3,
        "cpu_cost": {"price": 1.0, "currency": "EUR"},
        "memory_cost": {"price": 2.0, "currency": "EUR"}, "agents": ["a"],
    }  # fmt: skip
    wanted = stored | {"cpu_cost": {"price": 5.0, "currency": "EUR"}}
    changes = compare(NOUNS["kaktus"], fields("kaktus"), stored, wanted)
    assert [change.text for change in changes] == ["  ~ cpu_cost.price: 1.0 -> 5.0"]
    assert body_of(fields("kaktus"), wanted, changes) == {
        "name": "h",
        "agents": ["a"],
        "cpu_cost": {"price": 5.0, "currency": "EUR"},
    }
