"""Text from elsewhere made safe for a terminal or a log line."""

import re
import unicodedata
from typing import Final

# Cc: control characters (escape sequences begin with one); Cf: invisible ones that reorder or hide
# text; Zl, Zp: line breaks beyond \n; Cs: halves of surrogate pairs, which cannot be encoded; Cn:
# not assigned yet, so what a newer terminal makes of it is not known.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Cn"})
_PLAIN: Final = re.compile(r"[ -~]*")


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Write every character that could move a cursor or forge a line as \xNN or \uNNNN.

    `keep` lists exceptions, such as "\n" for a traceback.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in keep and unicodedata.category(character) in _UNSAFE_CATEGORIES
        else character
        for character in text
    )
