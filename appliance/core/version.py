"""Which release this is, and which commit it was built from.

The builder of the executable writes the commit beside this module; a checkout has no such file.
"""

from pathlib import Path
from typing import Final

VERSION: Final = "0.1.0"
COMMIT_FILE: Final = "commit.txt"


def commit() -> str:
    """Return the commit of this build, or "dev" in a checkout."""
    try:
        return Path(__file__).with_name(COMMIT_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return "dev"


def version_line() -> str:
    return f"kowabunga {VERSION} ({commit()})"
