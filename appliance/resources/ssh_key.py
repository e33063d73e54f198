"""The form of an OpenSSH public key line, as in ~/.ssh/id_ed25519.pub."""

import base64
from typing import Final

from appliance.core.errors import Invalid
from appliance.resources.names import check_line

MAX_KEY_LENGTH: Final = 16_384  # RSA of 16384 bits has 2,800 characters

# OpenSSH's list (sshd_config(5), PubkeyAcceptedAlgorithms) without DSA, which it dropped in 10.0.
_TYPES: Final = frozenset({
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
})  # fmt: skip
_LENGTH_BYTES: Final = 4


def check_public_key(line: str, field: str) -> None:
    """Accept one public key: type, base64, and maybe a comment.

    The line break that ends a key file is accepted: it is what tools read from there. The message
    never shows the text, which might be a private key by mistake.

    Raises:
        Invalid: of another form, of a type that OpenSSH does not take, or cut off.
    """
    text = line.removesuffix("\n").removesuffix("\r")
    check_line(text, field, max_length=MAX_KEY_LENGTH, secret=True)
    kind, _, rest = text.partition(" ")
    blob = rest.partition(" ")[0]
    if kind not in _TYPES or not _is_whole(blob, kind):
        raise Invalid(
            f"{field} is not an OpenSSH public key",
            field=field,
            hint="the form is: ssh-ed25519 AAAA... comment",
        )


def _is_whole(blob: str, kind: str) -> bool:
    """Tell whether the blob is whole strings to its end, the first naming the type (RFC 4253)."""
    try:
        data = base64.b64decode(blob, validate=True)
    except ValueError:  # binascii.Error, or a character beyond ASCII
        return False
    fields: list[bytes] = []
    while data:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        if len(data) < end:
            return False
        fields.append(data[_LENGTH_BYTES:end])
        data = data[end:]
    return len(fields) > 1 and fields[0] == kind.encode()
