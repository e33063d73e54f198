"""What TLS says when it does not trust a certificate, in words that help."""

import ssl
from typing import Final

from appliance.core.clock import SystemClock, rfc3339

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL's x509_vfy.h.
_OF_TIME: Final = (9, 10)


def find_mistrust(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Look behind an error for the certificate that caused it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error


def doubt_clock(mistrust: ssl.SSLCertVerificationError) -> str | None:
    """Return what to look at when time alone speaks against a certificate.

    The clock that OpenSSL has judged by is the machine's own, so it is told.
    """
    if mistrust.verify_code not in _OF_TIME:
        return None
    now = rfc3339(SystemClock().now_ms())
    return f"by the clock of this machine it is {now}: compare it with that of the other"
