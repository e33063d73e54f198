import copy
import pickle
import traceback

import msgspec
import pytest

from appliance.core.secret import Secret

VALUE = "swordfish-4711"


def test_is_masked_wherever_python_shows_it() -> None:
    secret = Secret(VALUE)
    for shown in (repr(secret), str(secret), f"{secret}", f"{[secret]}", f"{secret!r:>30}"):
        assert VALUE not in shown
        assert "***" in shown


def test_is_masked_in_a_traceback_that_names_it() -> None:
    with pytest.raises(KeyError) as raised:
        {"": 0}[f"{Secret(VALUE)} {Secret(VALUE)!r}"]
    assert VALUE not in "".join(traceback.format_exception(raised.value))


def test_reveals_only_on_demand() -> None:
    assert Secret(VALUE).reveal_text() == VALUE
    assert Secret(VALUE).reveal() == VALUE.encode()
    assert Secret(b"\xff").reveal() == b"\xff"


def test_compares_by_value() -> None:
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_cannot_be_pickled_hashed_or_encoded_by_accident() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret(VALUE))
    with pytest.raises(TypeError):
        copy.copy(Secret(VALUE))
    with pytest.raises(TypeError):
        hash(Secret(VALUE))
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret(VALUE))
