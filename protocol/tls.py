"""Whom a client trusts, and why a call did not come through: a certificate that is not
accepted, or a proxy that refuses.

Nothing here, and nothing that uses it, can turn the check of certificates off. What
cannot be checked is not called: no token is sent, since the handshake comes before it.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from protocol.errors import BadRequest

CA_VARIABLE = "SSL_CERT_FILE"
"""As OpenSSL, httpx and Prefect's client name it."""

# Of OpenSSL's x509_vfy.h: what is wrong with a certificate.
_EXPIRED = (9, 10)  # not valid yet, not valid any more
_OTHER_NAME = (62, 64)  # of a host, of an address
# Signed by nobody whom the authorities here vouch for.
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)


@dataclass(frozen=True)
class Names:
    """Where a person says whom to trust and which proxy to take."""

    ca: str
    proxy: str
    address: str


SITE = Names("ca_file in settings.toml", "proxy in settings.toml", "coordinator_url")
VARIABLES = Names(f"the variable {CA_VARIABLE}", "HTTPS_PROXY", "the address")


@dataclass(frozen=True)
class Obstacle:
    """What stands between a client and who it calls, and what a person does about it."""

    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}"


def obstacle(error: BaseException, names: Names = SITE) -> Obstacle | None:
    """Why a call failed, where it is the certificate or the proxy; None for anything
    else, such as a network that is down.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause, names)
        if isinstance(cause, httpx.ProxyError):
            return _of_proxy(cause, names)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from: HTTP clients wrap the socket's own."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _of_certificate(error: ssl.SSLCertVerificationError, names: Names) -> Obstacle:
    # OpenSSL's words. They hold no more of the certificate than the name that was asked
    # for.
    why = error.verify_message.rstrip(".")
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return Obstacle(
            f"The certificate that answers is of an authority that is not trusted here ({why}).",
            f"Give its PEM file as {names.ca}: the operator's private CA, or that of a proxy here that opens TLS.",
        )
    if error.verify_code in _EXPIRED:
        return Obstacle(
            f"The certificate that answers is not valid now ({why}).",
            "Compare the clock of this machine, then inform the operator.",
        )
    if error.verify_code in _OTHER_NAME:
        return Obstacle(
            f"The certificate that answers is another name's ({why}).",
            f"Write {names.address} with the name that the certificate has; the operator knows it.",
        )
    return Obstacle(
        f"The certificate that answers is not accepted ({why}).",
        "Inform the operator: docs/operators.md says what a private CA's certificates have to have.",
    )


def _of_proxy(error: httpx.ProxyError, names: Names) -> Obstacle:
    # Of the proxy's own words only the number: anybody may write the others.
    status = re.match(r"\d{3}\b", str(error))
    answered = f"status {status[0]}" if status else "no answer that is understood"
    remedy = (
        f"Check {names.proxy}, and whether the proxy lets CONNECT through to the coordinator's name and port;"
        " with status 407 it asks for user and password."
    )
    return Obstacle(f"The proxy refuses the call ({answered}).", remedy)


def authorities(url: str) -> ssl.SSLContext | bool:
    """Whom a client of this address trusts: those in the file that SSL_CERT_FILE names,
    True for the usual ones.

    BadRequest (code ca_file) for a file that holds none.
    """
    if urlsplit(url).scheme == "http":
        # Nobody: without TLS there is no certificate, and reading them takes time.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca_path = os.environ.get(CA_VARIABLE)
    if ca_path:
        return trusted(ca_path, CA_VARIABLE)
    return True


def trusted(path: str, name: str) -> ssl.SSLContext:
    """A context that trusts the authorities in a PEM file and no others; `name` is the
    setting that names the file.

    BadRequest (code ca_file) for a file that holds none.
    """
    try:
        return ssl.create_default_context(cafile=path)
    except OSError:  # ssl.SSLError is one
        raise BadRequest(
            f"{path} ({name}) holds no certificates.",
            remedy="Give the PEM file of the private CA.",
            code="ca_file",
        ) from None
