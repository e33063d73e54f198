"""How this very program is started anew: by the supervisor for roles, by `role set` for that."""

import os
import sys
from pathlib import Path
from typing import Final

from appliance.roles.converge import Program

# Where the bundle is unpacked, and our own settings; nothing else of the caller's environment.
_KEPT_PREFIXES: Final = ("SHIV_ROOT", "KOWABUNGA_")


def this_program() -> Program:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_PREFIXES)}
    return Program(executable=Path(sys.argv[0]).resolve(), environment=kept)
