"""The coordinator's settings: environment variables, each with one meaning and a safe
default.

docs/settings.md lists them; `deployments` starts the coordinator with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from protocol.errors import BadRequest

T = TypeVar("T")

LAST_PORT = 65_535
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class CoordinatorSettings:
    """Where the coordinator keeps its state and how it listens."""

    home: Path
    host: str
    port: int
    store_url: str  # of SQLAlchemy
    prefect_url: str  # of its API, which the coordinator calls
    prefect_page: str  # the same server's pages, which people open
    prefect_keep_orders: int  # ended ones whose runs stay in Prefect
    authentication: bool
    accept_seconds: float  # how long hospitals may take to accept an order
    statistics_seconds: (
        float  # how long a request of joint statistics waits for its answer
    )
    grace_seconds: float  # how long an order keeps its places while a hospital is away
    max_body_bytes: int
    max_message_bytes: int  # below /exchange
    max_round_bytes: int
    least_free_bytes: int  # of the disk; below that it counts as full
    calls_per_second: float  # of one token
    calls_at_once: int  # that one token may have open
    retention_days: float  # of sealed predictions
    round_retention_days: float  # of round files

    @property
    def folder(self) -> Path:
        return self.home / "coordinator"

    @property
    def rounds_folder(self) -> Path:
        """Where round files are kept."""
        return self.folder / "rounds"


def positive_number(name: str, default: str, kind: Callable[[str], T]) -> T:
    """A number from the environment; BadRequest names the variable."""
    text = os.environ.get(name, default)
    try:
        number = kind(text)
        # False for NaN and infinity too.
        is_in_range = 0 < float(text) < 1e12
        if not is_in_range:
            raise ValueError
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise BadRequest(
            f"{name} is not {what} above 0.",
            remedy=f"Unset it, or write {name}={default}.",
            code=name,
        ) from None
    return number


def port_number(name: str, default: str) -> int:
    """A port from the environment; BadRequest names the variable."""
    port = positive_number(name, default, int)
    if port > LAST_PORT:
        raise BadRequest(
            f"{name} is {port}, and ports end at {LAST_PORT}.",
            remedy=f"Unset it, or write {name}={default}.",
            code=name,
        )
    return port


def _prefect_url(api_port: int) -> str:
    """Prefect's API, another server's or the one that `./run` starts beside the
    coordinator's API.
    """
    given = os.environ.get("CONSILIUM_PREFECT_URL")
    if given is not None:
        _check_prefect_url(given)
        return given
    port = port_number("CONSILIUM_PREFECT_PORT", "4200")
    if port == api_port:
        raise BadRequest(
            f"CONSILIUM_API_PORT and CONSILIUM_PREFECT_PORT are both {port}.",
            remedy="Set one of them to another port.",
            code="CONSILIUM_PREFECT_PORT",
        )
    return f"http://127.0.0.1:{port}/api"


def _check_prefect_url(url: str) -> None:
    """https, or on this machine: the string that opens all of Prefect goes there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest(
            "CONSILIUM_PREFECT_URL is no address.",
            remedy="Unset it, or write https://host:port/api.",
            code="CONSILIUM_PREFECT_URL",
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise BadRequest(
            "CONSILIUM_PREFECT_URL is http:// to another machine: Prefect's auth string "
            "would travel readably.",
            remedy="Write https://host:port/api, or run Prefect on this machine.",
            code="CONSILIUM_PREFECT_URL",
        )


def load_settings() -> CoordinatorSettings:
    """Reads the environment.

    BadRequest for what cannot be used, and for a combination that would not be safe.
    """
    env = os.environ.get
    home = Path(env("CONSILIUM_HOME", ".consilium")).absolute()
    host = env("CONSILIUM_HOST", "127.0.0.1")
    authentication = env("CONSILIUM_AUTH", "on") != "off"
    if not authentication and host not in LOOPBACK:
        raise BadRequest(
            f"CONSILIUM_AUTH is off and CONSILIUM_HOST is {host}: everybody on that network could order and read.",
            remedy="Listen on 127.0.0.1, or leave CONSILIUM_AUTH on.",
            code="CONSILIUM_AUTH",
        )
    port = port_number("CONSILIUM_API_PORT", "5000")
    prefect_url = _prefect_url(port)
    sqlite_file = home / "coordinator" / "store.sqlite"
    return CoordinatorSettings(
        home=home,
        host=host,
        port=port,
        store_url=env("CONSILIUM_STORE_URL", f"sqlite:///{sqlite_file}"),
        prefect_url=prefect_url,
        prefect_page=env("CONSILIUM_PREFECT_PAGE") or prefect_url.removesuffix("/api"),
        prefect_keep_orders=positive_number(
            "CONSILIUM_PREFECT_KEEP_ORDERS", "200", int
        ),
        authentication=authentication,
        accept_seconds=positive_number("CONSILIUM_ACCEPT_SECONDS", "30", float),
        statistics_seconds=positive_number(
            "CONSILIUM_STATISTICS_SECONDS", "120", float
        ),
        grace_seconds=positive_number("CONSILIUM_GRACE_SECONDS", "120", float),
        max_body_bytes=positive_number("CONSILIUM_MAX_BODY_BYTES", str(2**20), int),
        max_message_bytes=positive_number(
            "CONSILIUM_MAX_MESSAGE_BYTES", str(2**28), int
        ),
        max_round_bytes=positive_number("CONSILIUM_MAX_ROUND_BYTES", str(2**29), int),
        least_free_bytes=positive_number("CONSILIUM_LEAST_FREE_BYTES", str(2**28), int),
        round_retention_days=positive_number(
            "CONSILIUM_ROUND_RETENTION_DAYS", "90", float
        ),
        retention_days=positive_number("CONSILIUM_RETENTION_DAYS", "30", float),
        calls_per_second=positive_number("CONSILIUM_CALLS_PER_SECOND", "300", float),
        calls_at_once=positive_number("CONSILIUM_CALLS_AT_ONCE", "100", int),
    )
