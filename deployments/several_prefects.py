"""What several Prefect servers of one coordinator share beside their database: a Redis,
through which one server hears what another one was told.

Without it each has events, late runs to look for and leases in its own memory: a socket
at one server shows nothing of what agents told another one.

What they find in it to do they unpickle, so it is as closed as the server's own account:
no address without a password is taken.

One variable of ours stands for all of Prefect's, so that none is forgotten.

Decision 148.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from api.settings import LOOPBACK
from protocol.errors import BadRequest
from protocol.machine.installed import is_installed

REDIS = "CONSILIUM_PREFECT_REDIS"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

PACKAGE, MODULE = "prefect-redis", "prefect_redis"
"""Prefect's server imports it by its name."""

EXAMPLE = "redis://default:PASSWORD@127.0.0.1:6379/1"


def redis_variables() -> dict[str, str]:
    """Prefect's own variables for the Redis that is set; none where none is.

    BadRequest for what several servers could not share.
    """
    url = os.environ.get(REDIS)
    if not url:
        return {}
    _check_address(url)
    if not os.environ.get(DATABASE, "").startswith("postgresql"):
        raise _wrong(
            f"is set, and {DATABASE} names no PostgreSQL: each server would have a database of its own.",
            f"Set {DATABASE} to postgresql+asyncpg://..., or unset {REDIS}.",
        )
    if not is_installed(PACKAGE):
        raise _wrong(
            f"is set, and the package {PACKAGE} is not installed.",
            "Run: pip install 'consilium-server[redis]'",
        )
    return {
        # Events, and which of them were seen already.
        "PREFECT_MESSAGING_BROKER": f"{MODULE}.messaging",
        "PREFECT_MESSAGING_CACHE": f"{MODULE}.messaging",
        "PREFECT_REDIS_MESSAGING_URL": url,
        # A socket's events wait for four others, or for this long: ten seconds of its own.
        "PREFECT_REDIS_MESSAGING_PUBLISHER_PUBLISH_EVERY": "1",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": f"{MODULE}.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": f"{MODULE}.lease_storage",
        # What the servers do by themselves: one of them at a time.
        "PREFECT_SERVER_DOCKET_URL": url,
        # What is said by PUBLISH is heard in all databases of a Redis, by name.
        "PREFECT_SERVER_DOCKET_NAME": f"consilium-{urlsplit(url).path.removeprefix('/')}",
        "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": f"{MODULE}.cleanup_queue",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": url,
    }


def _check_address(url: str) -> None:
    """With a number of a database: its keys have no names of ours."""
    try:
        address = urlsplit(url)
        has_port = address.port != 0
    except ValueError:
        address, has_port = urlsplit(""), False
    number = address.path.removeprefix("/")
    # isdecimal alone takes digits of other scripts.
    is_number = number.isascii() and number.isdecimal()
    is_redis = address.scheme in ("redis", "rediss") and bool(address.hostname)
    # What follows a question mark are options of Redis's client, such as
    # ssl_cert_reqs=none, which lets anybody answer.
    is_plain = not address.query and not address.fragment and url.strip() == url
    if not (is_redis and has_port and is_number and is_plain):
        raise _wrong(
            "is no address of a database of Redis.",
            f"Write {EXAMPLE}: the number at its end is of a database that nothing else uses.",
        )
    # What a server finds there to do is unpickled: whoever writes it runs programs.
    if not address.password:
        raise _wrong(
            "has no password: whoever writes to that Redis runs programs as Prefect's server.",
            f"Set requirepass in Redis's configuration, and write {EXAMPLE}.",
        )
    if address.scheme == "redis" and address.hostname not in LOOPBACK:
        raise _wrong(
            "is redis:// to another machine: its password would travel readably.",
            "Write rediss://, or run Redis on this machine.",
        )


def _wrong(sentence: str, remedy: str) -> BadRequest:
    return BadRequest(
        f"{REDIS} {sentence}", remedy=remedy, code="CONSILIUM_PREFECT_REDIS"
    )
