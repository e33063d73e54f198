import io
import json
import logging
from collections.abc import Generator

import pytest
import structlog

from appliance.core.logs import LogLevel, bound, configure_logs, copied_to
from tests.support.faults import What, Where, breaks
from tests.support.logs import captured_logs


@pytest.fixture
def out() -> Generator[io.StringIO]:
    with captured_logs() as stream:
        yield stream


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_time_level_logger_and_bound_ids(out: io.StringIO) -> None:
    with bound(request_id="r1", operation_id="o1"):
        structlog.get_logger("appliance.api").info("agent_enrolled", agent_id="a1")
    structlog.get_logger("appliance.api").info("later")
    first, second = lines(out)
    assert first["event"] == "agent_enrolled"
    assert first["level"] == "info"
    assert first["logger"] == "appliance.api"
    assert (first["request_id"], first["operation_id"], first["agent_id"]) == ("r1", "o1", "a1")
    assert str(first["timestamp"]).endswith("Z")
    assert "request_id" not in second


def test_other_libraries_log_the_same_way_with_the_same_ids(out: io.StringIO) -> None:
    with bound(request_id="r1"):
        logging.getLogger("some.library").warning("lost %d of %s", 2, "frames")
    (line,) = lines(out)
    assert line["event"] == "lost 2 of frames"
    assert line["request_id"] == "r1"


@pytest.mark.parametrize(
    "library", ["httpx", "uvicorn.access", "uvicorn.error", "websockets.client"]
)
def test_libraries_that_tell_every_request_are_kept_to_warnings(
    out: io.StringIO, library: str
) -> None:
    logging.getLogger(library).info("GET /secret")
    logging.getLogger(library).warning("trouble")
    assert [line["event"] for line in lines(out)] == ["trouble"]


_KEY = "kwb_master_AbCdEf0123456789AbCdEf0123456789-_x"
_PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize("secret", [_KEY, _KEY.replace("kwb_", "kwg_"), _PEM])
def test_keys_are_masked_wherever_they_stand(out: io.StringIO, secret: str) -> None:
    log = structlog.get_logger("x")
    log.info(secret, key=secret, deep={"list": [secret, {secret: 1}]})
    logging.getLogger("lib").warning("token=%s", secret)

    def fail() -> None:
        raise ValueError(secret)

    try:
        fail()
    except ValueError:
        log.exception("failed")
    text = out.getvalue()
    assert len(text.splitlines()) == 3
    assert "AbCdEf0123456789" not in text
    assert "MHcCAQEE" not in text
    assert "***" in text


def test_local_variables_of_a_traceback_are_never_shown(out: io.StringIO) -> None:
    def fail(password: str) -> None:
        raise ValueError(len(password))

    secret = "hunter" * 2
    try:
        fail(secret)
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert secret not in out.getvalue()


@breaks(
    What.INPUT,
    "control characters, and texts without an end, in what is logged",
    expected="each event is one line, escaped and of bounded length",
    where=Where.HOST,
)
@pytest.mark.parametrize("as_text", [True, False])
def test_control_characters_cannot_forge_a_line_or_move_a_cursor(
    out: io.StringIO, as_text: bool
) -> None:
    configure_logs(LogLevel.DEBUG, stream=out, text=as_text)
    structlog.get_logger("x").info(
        "name\nforged line", host="a\x1b[2Jb\x9b31m\u202e\u2028", other="\x7f"
    )
    text = out.getvalue()
    assert text.count("\n") == 1
    assert not any(bad in text for bad in "\x1b\x9b\u202e\u2028\x7f")
    assert "forged line" in text


@breaks(
    What.INPUT,
    "control characters, and texts without an end, in what is logged",
    expected="each event is one line, escaped and of bounded length",
    where=Where.HOST,
)
def test_a_text_of_an_event_is_not_as_long_as_whoever_sent_it_likes(out: io.StringIO) -> None:
    long = "\x01" * 70_000
    structlog.get_logger("t").info("request", path=long, more=[{"deep": long}], event_more=b"x")
    structlog.get_logger("t").info("request", key="a" * 1990 + "kwb_" + "A" * 43)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first["path"] == "\\x01" * 2000 + "... and 68000 characters more"
    assert first["more"] == [{"deep": first["path"]}]
    assert "AAAAAAAA" not in second["key"]


def test_events_of_one_logger_can_be_copied_elsewhere(out: io.StringIO) -> None:
    copy = io.StringIO()
    with copied_to(logging.StreamHandler(copy), logger="node.one"):
        structlog.get_logger("node.one").info("mine", key=_KEY)
        structlog.get_logger("node.two").info("other")
    structlog.get_logger("node.one").info("later")
    assert [line["event"] for line in lines(copy)] == ["mine"]
    assert "AbCdEf0123456789" not in copy.getvalue()
    assert [line["event"] for line in lines(out)] == ["mine", "other", "later"]


def test_a_level_keeps_the_lower_ones_out(out: io.StringIO) -> None:
    configure_logs(LogLevel.WARNING, stream=out)
    structlog.get_logger("x").info("quiet")
    structlog.get_logger("x").error("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]
