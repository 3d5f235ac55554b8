"""The coordinator's settings: environment variables, each with one meaning and a safe
default.

docs/settings.md lists them; `deployments` starts the coordinator with them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from protocol.errors import BadRequest

T = TypeVar("T")

LAST_PORT = 65_535
MOST_PROCESSES = 64
LOOPBACK = ("127.0.0.1", "::1", "localhost")


ISSUER = "CONSILIUM_SIGN_IN_ISSUER"
CLIENT = "CONSILIUM_SIGN_IN_CLIENT"
SECRET_FILE = "CONSILIUM_SIGN_IN_SECRET_FILE"  # noqa: S105
ADDRESS = "CONSILIUM_SIGN_IN_ADDRESS"
GROUPS = "CONSILIUM_SIGN_IN_GROUPS"


@dataclass(frozen=True)
class SignInSettings:
    """The identity provider by which people sign in on the page, beside tokens."""

    issuer: str
    client: str
    secret: str = field(repr=False)
    address: str  # of the coordinator, as browsers reach it; without a path
    claim: str  # of the id token, which has the person's groups
    # By group the hospital's user id; None for the operator.
    groups: Mapping[str, int | None]

    def opens(self, user_id: int | None) -> bool:
        """Whether any group stands for this hospital, or the operator."""
        return user_id in self.groups.values()


@dataclass(frozen=True)
class CoordinatorSettings:
    """Where the coordinator keeps its state and how it listens."""

    home: Path
    host: str
    port: int
    store_url: str  # of SQLAlchemy
    exchange_url: str  # of fsspec: where large messages are kept
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
    api_processes: int = 1  # of the REST API, on one port
    page_port: int = 5001  # of the page, where the API has several processes
    sign_in: SignInSettings | None = None  # people have tokens only

    @property
    def folder(self) -> Path:
        return self.home / "coordinator"

    @property
    def rounds_folder(self) -> Path:
        """Where round files are kept."""
        return self.folder / "rounds"


def positive_number(name: str, default: str, kind: Callable[[str], T]) -> T:
    """A number from the environment; BadRequest names the variable."""
    setting_text = os.environ.get(name, default)
    try:
        number = kind(setting_text)
        # False for NaN and infinity too.
        is_in_range = 0 < float(setting_text) < 1e12
        if not is_in_range:
            raise ValueError
    except ValueError:
        number_kind = "a whole number" if kind is int else "a number"
        raise BadRequest(
            f"{name} is not {number_kind} above 0.",
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
    given_url = os.environ.get("CONSILIUM_PREFECT_URL")
    if given_url is not None:
        _check_prefect_url(given_url)
        return given_url
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
        split_url = urlsplit(url)
    except ValueError:
        split_url = urlsplit("")
    if split_url.scheme not in ("http", "https") or not split_url.hostname:
        raise BadRequest(
            "CONSILIUM_PREFECT_URL is no address.",
            remedy="Unset it, or write https://host:port/api.",
            code="CONSILIUM_PREFECT_URL",
        )
    if split_url.scheme == "http" and split_url.hostname not in LOOPBACK:
        raise BadRequest(
            "CONSILIUM_PREFECT_URL is http:// to another machine: Prefect's auth string "
            "would travel readably.",
            remedy="Write https://host:port/api, or run Prefect on this machine.",
            code="CONSILIUM_PREFECT_URL",
        )


def _check_processes(n_processes: int, store_url: str) -> None:
    """Several processes wake each other through PostgreSQL."""
    if n_processes > MOST_PROCESSES:
        raise BadRequest(
            f"CONSILIUM_API_PROCESSES is {n_processes}, and {MOST_PROCESSES} are the most.",
            remedy="Write the number of this machine's cores.",
            code="CONSILIUM_API_PROCESSES",
        )
    if n_processes > 1 and not store_url.startswith("postgresql"):
        raise BadRequest(
            f"CONSILIUM_API_PROCESSES is {n_processes}, and the store is SQLite, which one process has.",
            remedy="Set CONSILIUM_STORE_URL to a PostgreSQL database, or unset CONSILIUM_API_PROCESSES.",
            code="CONSILIUM_API_PROCESSES",
        )


# People's sign-in


def load_sign_in() -> SignInSettings | None:
    """None where nothing of it is set. BadRequest names the variable: half of it set is
    an error, never a page that lets nobody, or everybody, in.
    """
    variable_names = (ISSUER, CLIENT, SECRET_FILE, ADDRESS, GROUPS)
    variables = {name: os.environ.get(name, "") for name in variable_names}
    missing = [name for name in variable_names if not variables[name]]
    if len(missing) == len(variable_names):
        return None
    if missing:
        raise _wrong_sign_in(
            missing[0],
            f"is missing; people's sign-in needs {', '.join(missing)} as well.",
            "Set all of them, or none; see docs/settings.md.",
        )
    _check_web_address(ISSUER, variables[ISSUER])
    _check_web_address(ADDRESS, variables[ADDRESS])
    if urlsplit(variables[ADDRESS]).path:
        raise _wrong_sign_in(
            ADDRESS, "has a path.", "Write https://host, or https://host:port."
        )
    return SignInSettings(
        issuer=variables[ISSUER],
        client=variables[CLIENT],
        secret=_secret_of(Path(variables[SECRET_FILE])),
        address=variables[ADDRESS],
        claim=os.environ.get("CONSILIUM_SIGN_IN_CLAIM") or "groups",
        groups=_groups_of(variables[GROUPS]),
    )


def _wrong_sign_in(name: str, sentence: str, remedy: str) -> BadRequest:
    return BadRequest(f"{name} {sentence}", remedy=remedy, code=name)


def is_safe_address(url: str) -> bool:
    """https, or http to this machine: nobody between can read or change it."""
    try:
        split_url = urlsplit(url)
        # Read within: a port that is no number is an error only here.
        has_port = split_url.port != 0
    except ValueError:
        return False
    is_on_this_machine = split_url.scheme == "http" and split_url.hostname in LOOPBACK
    is_safe = split_url.scheme == "https" or is_on_this_machine
    # https://provider@elsewhere leads elsewhere.
    return (
        is_safe
        and bool(split_url.hostname)
        and "@" not in split_url.netloc
        and has_port
    )


def _check_web_address(name: str, url: str) -> None:
    if not is_safe_address(url) or "?" in url or "#" in url or url.strip() != url:
        raise _wrong_sign_in(
            name,
            "is no https:// address.",
            "Write https://host/path as the identity provider does; http:// on this machine only.",
        )


def _secret_of(path: Path) -> str:
    """One line, in a file that nobody else reads."""
    try:
        mode = path.stat().st_mode
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong_sign_in(
            SECRET_FILE,
            f"cannot be read ({type(error).__name__}).",
            "Write the client's secret into it, one line.",
        ) from None
    if mode & 0o077:
        raise _wrong_sign_in(
            SECRET_FILE, "can be read by others.", f"Run: chmod 600 {path}"
        )
    if not secret or not secret.isprintable():
        raise _wrong_sign_in(
            SECRET_FILE, "holds no secret.", "Write the client's secret, one line."
        )
    return secret


def _groups_of(text: str) -> dict[str, int | None]:
    remedy = 'Write {"group": 4, "another group": "operator"}: a hospital\'s user id, or the operator.'
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        pairs = None
    # A list of pairs comes of an object only; [] and {} are nothing both.
    are_pairs = isinstance(pairs, list) and all(
        isinstance(pair, tuple) for pair in pairs
    )
    if not pairs or not are_pairs:
        raise _wrong_sign_in(GROUPS, "is no JSON object.", remedy)
    groups: dict[str, int | None] = {}
    for group, who in pairs:
        if not group or group in groups:
            raise _wrong_sign_in(GROUPS, "has a group twice, or without name.", remedy)
        groups[group] = _person_of(who, remedy)
    return groups


def _person_of(who: Any, remedy: str) -> int | None:
    if who == "operator":
        return None
    # True is an int.
    if type(who) is not int or who < 2:
        raise _wrong_sign_in(
            GROUPS, "has a value that is no hospital's user id.", remedy
        )
    return who


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
    store_url = env("CONSILIUM_STORE_URL", f"sqlite:///{sqlite_file}")
    api_processes = positive_number("CONSILIUM_API_PROCESSES", "1", int)
    _check_processes(api_processes, store_url)
    page_port = port_number("CONSILIUM_PAGE_PORT", "5001")
    if api_processes > 1 and page_port == port:
        raise BadRequest(
            f"CONSILIUM_API_PORT and CONSILIUM_PAGE_PORT are both {port}.",
            remedy="Set one of them to another port.",
            code="CONSILIUM_PAGE_PORT",
        )
    return CoordinatorSettings(
        home=home,
        host=host,
        port=port,
        store_url=store_url,
        exchange_url=env("CONSILIUM_EXCHANGE_URL")
        or str(sqlite_file.parent / "exchange"),
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
        api_processes=api_processes,
        page_port=page_port,
        sign_in=load_sign_in(),
    )
