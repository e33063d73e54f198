"""What systemd could not start is refused before it is told to."""

from pathlib import Path

import pytest

from appliance.core.errors import Invalid
from appliance.roles.systemd import unit_file


def test_the_unit_runs_the_executable() -> None:
    unit = unit_file(Path("/usr/local/bin/kowabunga-1.2+a"))
    assert b"\nExecStart=/usr/local/bin/kowabunga-1.2+a serve\n" in unit


@pytest.mark.parametrize("place", ["/home/me", "/root", "/run/user/0", "/tmp", "/var/tmp/x"])
def test_an_executable_that_the_service_does_not_see_is_refused(place: str) -> None:
    with pytest.raises(Invalid, match=r"a service sees nothing in .*copy it to /usr/local/bin"):
        unit_file(Path(place, "kowabunga"))


@pytest.mark.parametrize("odd", [" ", "%", "$", "\\", '"', "'", ";", "\n", "\u00e9"])
def test_a_path_that_means_something_else_to_systemd_is_refused(odd: str) -> None:
    with pytest.raises(Invalid, match="copy it to /usr/local/bin"):
        unit_file(Path(f"/opt/a{odd}b/kowabunga"))
