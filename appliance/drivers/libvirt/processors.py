"""The processors that guests can be given: libvirt's named ones, and the levels of x86-64.

A zone whose hosts differ gives all its machines one that every host has. Pure.
"""

import xml.etree.ElementTree as ET
from typing import Final

# The levels of the System V ABI (x86-64 psABI, 3.1.1) have no name in libvirt: we build them on
# its plainest processor, of no vendor, by libvirt's names of their features.
_PLAIN: Final = "kvm64"
_V2: Final = ("cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3")
# Not of the ABI are AES and its multiplication: all processors of this level have them, and TLS
# in guests is several times slower without.
_V3: Final = (
    *_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave", "aes", "pclmuldq",
)  # fmt: skip
_V4: Final = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
LEVELS: Final = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}


def render_processor(model: str) -> ET.Element:
    """Return the `<cpu>` that has all that the name says; a start without it is refused."""
    cpu = ET.Element("cpu", mode="custom", match="exact", check="partial")
    named = ET.SubElement(cpu, "model", fallback="forbid")
    named.text = _PLAIN if model in LEVELS else model
    for feature in LEVELS.get(model, ()):
        ET.SubElement(cpu, "feature", policy="require", name=feature)
    return cpu
