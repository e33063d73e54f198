"""The node as a systemd service, where systemd runs: one unit, whose process supervises the roles.

The same supervisor runs without systemd; a unit per role would be a second way to do its work.
"""

import re
from pathlib import Path
from typing import Final

from appliance.core.command import run
from appliance.core.errors import Invalid
from appliance.core.files import write_atomic
from appliance.roles.node_file import read_node_file

UNIT: Final = "kowabunga.service"
_UNIT_FILE: Final = Path("/etc/systemd/system") / UNIT
_TIMEOUT_S: Final = 90.0

# What PrivateTmp and ProtectHome below hide from the service.
_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
# ExecStart gives blanks, quotes, "%", "$" and "\\" a meaning: systemd.service(5).
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+@:~-]+")
_ELSEWHERE: Final = "copy it to /usr/local/bin, and run that one"

# Restart without limit: a node that gives up cannot be helped from afar. The supervisor gets the
# first SIGTERM alone and ends its children itself. What agents need (device nodes, kernel settings,
# /etc of the daemons that they drive) is what keeps the sandbox from being tighter.
_TEMPLATE: Final = """\
[Unit]
Description=Kowabunga node
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={executable} serve
Restart=always
RestartSec=1
WatchdogSec=60
KillMode=mixed
TimeoutStopSec=30
OOMScoreAdjust=-500
UMask=0027
RuntimeDirectory=kowabunga
ConfigurationDirectory=kowabunga
StateDirectory=kowabunga
StateDirectoryMode=0700
LockPersonality=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectKernelLogs=yes
ProtectSystem=full
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def is_running() -> bool:
    """Whether systemd is the init of this machine. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def unit_file(executable: Path) -> bytes:
    """Return the unit that runs this executable.

    Raises:
        Invalid: the service could not start it.
    """
    for hidden in _HIDDEN:
        if executable.is_relative_to(hidden):
            raise Invalid(f"{executable}: a service sees nothing in {hidden}", hint=_ELSEWHERE)
    if not _PLAIN.fullmatch(str(executable)):
        raise Invalid(
            f"{executable}: its path has a character that systemd would not take as it is",
            hint=_ELSEWHERE,
        )
    return _TEMPLATE.format(executable=executable).encode()


async def ensure_service(executable: Path) -> bool:
    """Have the unit installed, enabled and running this executable; whether that changed a thing.

    Raises:
        Invalid: it could not start this executable.
        DriverError: systemd refused, or the service did not come up.
    """
    unit = unit_file(executable)
    stale = read_node_file(_UNIT_FILE) != unit
    if stale:
        write_atomic(_UNIT_FILE, unit)
        await _systemctl("daemon-reload")
    enabled, active = await _is("enabled"), await _is("active")
    if not enabled:
        await _systemctl("enable", UNIT)
    if stale or not active:
        await _systemctl("restart", UNIT)
    return stale or not enabled or not active


async def stop_service() -> None:
    """Stop it now and at every boot."""
    await _systemctl("disable", "--now", UNIT)


async def _is(state: str) -> bool:
    done = await run(["systemctl", f"is-{state}", "--quiet", UNIT], timeout_s=10, check=False)
    return done.status == 0


async def _systemctl(*arguments: str) -> None:
    await run(["systemctl", *arguments], timeout_s=_TIMEOUT_S)
