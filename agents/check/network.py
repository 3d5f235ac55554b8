"""What stands between an agent and its coordinator: a proxy that a variable names and no
agent reads, and one that opens TLS.

Coordinators are asked for /health here, without a token.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import httpx

from agents.check.findings import OK, WARN, WRONG, Finding
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest

_NO_ANSWER = (
    httpx.HTTPError,
    httpx.InvalidURL,
    ValueError,
    OSError,
    BadRequest,
    ImportError,  # a proxy of a kind that httpx has no package for
)


def check_proxy(settings: SiteSettings, *, is_reached: bool) -> Iterator[Finding]:
    """Of `proxy` in settings.toml, and of the variables that other programs read, such
    as pip where a checkout installs its packages.

    No sentence repeats an address: it may hold a password.
    """
    host = urlsplit(settings.coordinator_url).hostname or ""
    names = [
        name for name in os.environ if name.lower() in ("https_proxy", "all_proxy")
    ]
    is_left_out = bool(names) and bool(proxy_bypass(host))
    if settings.proxy is not None:
        yield from _of_settings(host, is_reached=is_reached, is_left_out=is_left_out)
    elif names and is_reached:
        sentence = f"{names[0]} is set here, for pip and others; an agent reads none, and the coordinator answers it."
        yield Finding("proxy", OK, sentence)
    elif names:
        yield _of_variable(settings, names[0])


def _of_settings(
    host: str, *, is_reached: bool, is_left_out: bool
) -> Iterator[Finding]:
    if is_reached:
        sentence = "The coordinator answers through the proxy of settings.toml."
        yield Finding("proxy", OK, sentence)
    elif is_left_out:
        sentence = f"NO_PROXY leaves {host} out, and settings.toml has a proxy for it, by which it does not answer."
        remedy = "Leave out the line proxy in settings.toml, if no proxy stands between the agent and the coordinator."
        yield Finding("proxy", WARN, sentence, remedy)


def _of_variable(settings: SiteSettings, name: str) -> Finding:
    """Whether the coordinator answers by the proxy that the variable names."""
    try:
        through = dataclasses.replace(settings, proxy=os.environ[name])
        with through.client() as client:
            client.get("health")
    except _NO_ANSWER:
        sentence = f"{name} is set here and read by no agent; the coordinator answers neither with it nor without."
        remedy = "Ask who runs the network how the coordinator's address is reached; a proxy is written as proxy in"
        return Finding("proxy", WARN, sentence, f"{remedy} settings.toml.")
    sentence = f"The coordinator answers by the proxy that {name} names, and not without it; agents read no variable."
    remedy = f"Write the address that {name} has as proxy into settings.toml."
    return Finding("proxy", WRONG, sentence, remedy)


def opened_tls(settings: SiteSettings) -> Finding | None:
    """Where the certificate that answers is not of the authority in ca_file, as an
    enrolment brings it, but of one that this machine trusts for all: a proxy that opens
    TLS has that put there. None for anything else.
    """
    if settings.ca_file is None:
        return None
    usual = dataclasses.replace(settings, ca_file=None)
    try:
        # While the answer comes its connection is open, and with it the certificate is
        # there.
        with usual.client() as client, client.stream("GET", "health") as health_answer:
            issuer = _issuer_of(health_answer)
    except _NO_ANSWER:
        return None
    sentence = (
        f"The certificate that answers is by {issuer}, whom this machine trusts, and not by the authority in"
        f" {settings.ca_file}, as the operator gave it: something here opens TLS, or the operator has another one."
    )
    remedy = (
        "Ask the operator which it is. Let the proxy here leave the coordinator's address alone; or, if it is to read"
        " along (it then sees tokens, and nothing that is sealed), write its PEM file as ca_file."
    )
    return Finding("coordinator", WRONG, sentence, remedy)


def _issuer_of(answer: httpx.Response) -> str:
    """The common name of who issued the certificate, which has been verified."""
    stream = answer.extensions["network_stream"]
    certificate = stream.get_extra_info("ssl_object").getpeercert() or {}
    issuer_names = {}
    for relative_name in certificate.get("issuer", ()):
        issuer_names.update(dict(relative_name))
    issuer = issuer_names.get("commonName") or issuer_names.get("organizationName")
    return f'"{issuer}"' if issuer else "an authority without a name"
