"""The file by which a hospital's agent joins: who it is, where the coordinator is, and
a token of one use. Decision 110.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from api.settings import LOOPBACK
from api.store import Store
from api.store.hospitals import ENROLMENT, ENROLMENT_DAYS
from deployments.state import new_token, write_secret
from protocol.errors import BadRequest, Conflict
from protocol.toml_text import toml_string

HEAD = """\
# The enrolment of one hospital, for its IT: consilium-agent init --enrol THIS_FILE --site FOLDER
# Whoever has this file can join in the hospital's name, once, until it expires. Hand it over as you would a password,
# and remove it when it has been used.
"""


@dataclass(frozen=True)
class Enrolment:
    """What of a file is known before there is a token."""

    path: Path
    address: str
    authority: str | None  # PEM


def read_enrolment(address: str, ca: Path | None, path: Path) -> Enrolment:
    """Checks what an operator has given. BadRequest (codes address, ca), Conflict where
    the file is there already.
    """
    try:
        url = urlsplit(address)
        # Asked for inside try: `port` raises for what is no number of a port.
        is_usable = bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    is_https = is_usable and url.scheme == "https"
    # Over plain http from another machine the token could be read, and used first.
    is_here = is_usable and url.scheme == "http" and url.hostname in LOOPBACK
    if not is_https and not is_here:
        raise BadRequest(
            "--address is no https address of a coordinator.",
            remedy="Write https://host:port, as agents reach it.",
            code="address",
        )
    if path.exists():
        raise Conflict(
            f"{path} exists already.",
            remedy="Remove it, or give --into another folder.",
            code="enrolment_file",
        )
    return Enrolment(path, address, None if ca is None else _authority(ca))


def _authority(path: Path) -> str:
    try:
        certificate = path.read_text("ascii")
        ssl.create_default_context(cadata=certificate)
    except (OSError, UnicodeDecodeError, ValueError):  # an SSLError is an OSError
        raise BadRequest(
            f"{path} holds no certificate.",
            remedy="Give the PEM file of the authority that signed the coordinator's certificate.",
            code="ca_file",
        ) from None
    return certificate


def write_enrolment(
    store: Store, enrolment: Enrolment, user_id: int, name: str
) -> None:
    """Writes the file, mode 0600; of earlier ones of the hospital none is taken any
    more.
    """
    # First: at no time are two files good.
    store.hospitals.revoke_tokens(ENROLMENT, user_id)
    token = new_token(store, ENROLMENT, user_id)
    expires = datetime.now(UTC) + timedelta(days=ENROLMENT_DAYS)
    enrolment_lines = [
        f"user_id = {user_id}",
        f"name = {toml_string(name)}",
        f"coordinator_url = {toml_string(enrolment.address)}",
        f"expires = {expires:%Y-%m-%dT%H:%M:%SZ}",
        f"token = {toml_string(token)}",
    ]
    if enrolment.authority is not None:
        enrolment_lines.append(f"ca = {toml_string(enrolment.authority)}")
    # Last: a file whose token the store did not know would send a hospital in vain.
    write_secret(enrolment.path.absolute(), HEAD + "\n".join(enrolment_lines) + "\n")
