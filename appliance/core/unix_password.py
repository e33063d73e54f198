"""Passwords as Unix keeps them: SHA-512 crypt, by the C library that checks them at login."""

import ctypes
from typing import Final

from appliance.core.errors import KowabungaError
from appliance.core.secret import Secret

_LIBRARY: Final = "libcrypt.so.1"  # essential on Debian; Python's own module is gone from 3.13
_DATA_BYTES: Final = 32_768  # CRYPT_OUTPUT_SIZE and more: the size of libxcrypt's crypt_data


def hash_unix_password(password: Secret, salt: str) -> str:
    """Return "$6$salt$..." with the default of 5000 rounds; takes some milliseconds.

    Args:
        password: any text without NUL.
        salt: up to 16 letters, digits, dots and slashes.
    """
    function = ctypes.CDLL(_LIBRARY).crypt_rn
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
    function.restype = ctypes.c_char_p
    data = ctypes.create_string_buffer(_DATA_BYTES)
    hashed: bytes | None = function(password.reveal(), f"$6${salt}".encode(), data, _DATA_BYTES)
    ctypes.memset(data, 0, _DATA_BYTES)
    if hashed is None or not hashed.startswith(b"$6$"):
        raise KowabungaError(f"{_LIBRARY} cannot make SHA-512 crypt hashes")
    return hashed.decode("ascii")
