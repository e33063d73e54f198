"""The NoCloud CD-ROM, read back by the library and by its own digest."""

import io
import time
from typing import Literal

import msgspec
import pytest
from pycdlib.pycdlib import PyCdlib

from appliance.drivers.seed_iso import DIGEST_AREA_BYTES, build_seed, read_digest
from appliance.model.storage import SeedSpec, seed_digest

SEED = SeedSpec(
    image_id="f" * 24,
    user_data="#cloud-config\nhostname: wéb\n",
    meta_data="instance-id: one\n",
    network_config="version: 2\n",
)
PARTS = {
    "user-data": SEED.user_data,
    "meta-data": SEED.meta_data,
    "network-config": SEED.network_config,
}


def read(medium: bytes, by: Literal["rr_path", "joliet_path"], name: str) -> bytes:
    iso = PyCdlib()
    iso.open_fp(io.BytesIO(medium))
    content = io.BytesIO()
    iso.get_file_from_iso_fp(content, **{by: f"/{name}"})
    iso.close()
    return content.getvalue()


@pytest.mark.parametrize("name", list(PARTS))
def test_each_file_has_its_name_for_linux_and_for_windows(name: str) -> None:
    medium = build_seed(SEED)
    assert read(medium, "rr_path", name).decode() == PARTS[name]
    assert read(medium, "joliet_path", name).decode() == PARTS[name]


def test_it_is_labelled_for_cloud_init() -> None:
    assert build_seed(SEED)[16 * 2048 + 40 :].startswith(b"cidata".ljust(32))


def test_it_tells_its_content() -> None:
    medium = build_seed(SEED)
    assert read_digest(medium[:DIGEST_AREA_BYTES]) == seed_digest(SEED)
    other = build_seed(msgspec.structs.replace(SEED, user_data=""))
    assert read_digest(other) not in (None, seed_digest(SEED))


def test_the_same_content_is_the_same_medium_at_any_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library stamps it with the time of the machine, which it has no parameter for."""
    media: set[bytes] = set()
    for seconds in (1_700_000_000.0, 1_800_000_000.0):
        monkeypatch.setattr(time, "time", lambda now=seconds: now)
        media.add(build_seed(SEED))
    assert len(media) == 1


def test_of_no_content_is_a_medium_too() -> None:
    empty = SeedSpec(image_id="f" * 24, user_data="", meta_data="", network_config="")
    medium = build_seed(empty)
    assert read_digest(medium) == seed_digest(empty)
    assert read(medium, "joliet_path", "meta-data") == b""


@pytest.mark.parametrize("head", [b"", bytes(DIGEST_AREA_BYTES), b"\xff" * DIGEST_AREA_BYTES])
def test_what_is_none_of_ours_tells_nothing(head: bytes) -> None:
    assert read_digest(head) is None


def test_large_content_is_whole() -> None:
    seed = msgspec.structs.replace(SEED, user_data="#\n" * 2_000_000)
    assert read(build_seed(seed), "rr_path", "user-data").decode() == seed.user_data
