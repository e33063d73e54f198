"""Our copy of the contract is whole, has no prose, and equals the original where that is here."""

import json

import pytest
import yaml

from tests.contract.api import contract
from tests.contract.api.reduce_contract import dumps, reduce


def test_copy_has_every_operation_and_schema_of_release_0_53_2() -> None:
    loaded = contract.load()
    assert loaded["version"] == "0.53.2"
    assert len({key.split(" ")[1] for key in loaded["operations"]}) == 113
    assert len(loaded["schemas"]) == 54


def test_copy_has_no_text_of_the_original() -> None:
    allowed = {"id", "tags", "parameters", "request", "responses"}
    for operation in contract.load()["operations"].values():
        assert operation.keys() == allowed
    for schema in contract.load()["schemas"].values():
        assert schema.keys() <= {"type", "items", "required", "properties"}
        for member in schema.get("properties", {}).values():
            assert member.keys() <= {"ref", "type", "format", "default", "enum", "items"}


def test_copy_refers_only_to_its_own_schemas() -> None:
    loaded = contract.load()
    used = {
        name
        for operation in loaded["operations"].values()
        for body in (operation["request"], *operation["responses"].values())
        if body
        for name in body.values()
    }
    assert used <= loaded["schemas"].keys()


def test_copy_reads_as_it_was_written() -> None:
    text = contract.COPY.read_text(encoding="utf-8")
    assert dumps(json.loads(text)) == text


@pytest.mark.skipif(not contract.ORIGINAL.exists(), reason="the original contract is not beside us")
def test_copy_equals_the_original() -> None:
    original = yaml.safe_load(contract.ORIGINAL.read_text(encoding="utf-8"))
    assert reduce(original) == contract.load()
