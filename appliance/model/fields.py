r"""Annotated field types that several kinds of objects share; enforced when a Struct is decoded.

msgspec searches with Python's `re`, whose `$` also matches before a final newline: hence the exact
lengths, and `\Z`.
"""

from typing import Annotated

from msgspec import Meta

from appliance.core.ids import ID_PATTERN

ObjectId = Annotated[str, Meta(pattern=ID_PATTERN, max_length=24)]
MacAddress = Annotated[str, Meta(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$", max_length=17)]
# The kernel keeps 15 characters and a NUL (IFNAMSIZ, if.h); "." and ".." are refused by it.
InterfaceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")]
# The name of a processor goes into QEMU's command line, where commas separate.
CpuModel = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
PositiveBytes = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", max_length=64)]
