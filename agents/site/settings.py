"""One hospital's installation: settings.toml in its site folder, and where its state
lives.

`load_settings` reads the file; `SiteSettings` says where everything is and connects to the
coordinator. What the hospital allows is in the file beside it (agents.site.policy).
"""

from __future__ import annotations

import json
import os
import pwd
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from protocol.errors import BadRequest
from protocol.machine.disk import make_private_folder
from protocol.tls import authorities, trusted

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Every key of the file, with the type that TOML has to give it; any other key is an
# error.
_KEYS: dict[str, type[Any]] = {
    "user_id": int,
    "name": str,
    "coordinator_url": str,
    "insecure": bool,
    "data_url": str,
    "predictions_url": str,
    "state": str,
    "ca_file": str,
    "proxy": str,
    "max_orders": int,
    "statement_timeout_seconds": int,
    "max_rows": int,
    "preload": bool,
    "round_steps": bool,
    "coarse_tasks_above": int,
    "partners": list,
}
# What earlier versions had, and what to do with it now.
_GONE = {
    "prefect_url": "Prefect is reached at coordinator_url.",
    "prefect_auth": "An agent has no secret of Prefect's any more.",
}
# User 1 is the coordinator.
_LEAST = {
    "user_id": 2,
    "max_orders": 1,
    "statement_timeout_seconds": 1,
    "max_rows": 1,
    "coarse_tasks_above": 0,
}
# Keys that, left out, have the default of the field of the same name.
_OPTIONAL = (
    "predictions_url",
    "insecure",
    "ca_file",
    "proxy",
    "max_orders",
    "statement_timeout_seconds",
    "max_rows",
    "preload",
    "round_steps",
    "coarse_tasks_above",
)


@dataclass(frozen=True)
class Partner:
    """A hospital that this one works with, and the fingerprint that was compared by
    telephone.
    """

    user_id: int
    name: str
    fingerprint: str


@dataclass(frozen=True)
class SiteSettings:
    """Where everything of one site is.

    `state` holds vault, ledger, log, data and results; nobody else reads it.
    """

    site: Path
    user_id: int
    name: str
    coordinator_url: str
    data_url: str = field(repr=False)  # may hold a password
    state: Path
    # Where `agent infer --into` writes a table; may hold a password.
    predictions_url: str | None = field(default=None, repr=False)
    # Whether coordinator_url may be http:// beyond this machine.
    insecure: bool = False
    ca_file: str | None = None
    proxy: str | None = field(default=None, repr=False)
    max_orders: int = 4
    statement_timeout_seconds: int = 300
    max_rows: int = 10_000_000
    # Whether what orders import is kept in memory between them.
    preload: bool = True
    # Whether Prefect shows gradient, scoring and encryption of a round each by itself.
    round_steps: bool = False
    # The most hospitals of an order that shows its steps here as Prefect's tasks.
    coarse_tasks_above: int = 20
    partners: Mapping[int, Partner] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, str]:
        """This hospital's name and its partners', by user id."""
        names = {self.user_id: self.name}
        for partner in self.partners.values():
            names[partner.user_id] = partner.name
        return names

    @property
    def pool(self) -> str:
        return f"hospital-{self.user_id}"

    @property
    def prefect_url(self) -> str:
        """Prefect's API as this hospital has it: the coordinator's gateway."""
        return f"{self.coordinator_url.rstrip('/')}/prefect/api"

    @property
    def vault(self) -> Path:
        return self.state / "vault"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.jsonl"

    @property
    def policy(self) -> Path:
        return self.site / "policy.toml"

    @property
    def data_folder(self) -> Path:
        """Files that joint statistics may read; nothing outside of it is ever opened
        for them.
        """
        return self.state / "data"

    @property
    def results_folder(self) -> Path:
        """What this hospital received of joint statistics: a folder for each order."""
        return self.state / "results"

    def secret(self, name: str) -> str:
        """A secret from a file of mode 0600 below the state folder.

        BadRequest when missing, empty or open.
        """
        secret_path = self.state / name
        if not secret_path.is_file():
            remedy = "Put the secret that the operator gave you there, mode 0600."
            raise _wrong(name, f"{secret_path} is missing.", remedy)

        # Whoever else reads it could act as this hospital, so an open file counts as no
        # secret.
        is_open = secret_path.stat().st_mode & 0o077
        if is_open:
            raise _wrong(
                name,
                f"{secret_path} can be read by others.",
                f"Run: chmod 600 {secret_path}",
            )

        secret = _text(secret_path).strip()
        can_be_a_header = secret.isascii() and secret.isprintable()
        if not secret or not can_be_a_header:
            remedy = "Put the one line that the operator gave you there, or remove it if you were given none."
            raise _wrong(name, f"{secret_path} holds no secret.", remedy)
        return secret

    def client(self, base_url: str | None = None) -> httpx.Client:
        """HTTP to the coordinator (or to `base_url`), through the site's proxy and
        private CA where it has them.
        """
        url = base_url or self.coordinator_url
        return httpx.Client(
            base_url=url,
            verify=self._verify(url),
            proxy=self.proxy,
            trust_env=False,
        )

    def async_client(self) -> httpx.AsyncClient:
        """The same for the worker's event loop."""
        url = self.coordinator_url
        return httpx.AsyncClient(
            base_url=url,
            verify=self._verify(url),
            proxy=self.proxy,
            trust_env=False,
        )

    def _verify(self, url: str) -> ssl.SSLContext | bool:
        if self.ca_file is None:
            return authorities(url)
        return trusted(self.ca_file, "ca_file in settings.toml")

    def environment(self) -> dict[str, str]:
        """What Prefect and the flow processes of this site read; to be set before
        Prefect is imported.
        """
        variables = {
            "CONSILIUM_SITE": str(self.site),
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_HOME": str(self.state / "prefect"),
            # the coordinator's word comes first; this is for when it is away
            "PREFECT_WORKER_QUERY_SECONDS": "30",
            # whether it is there its inbox says; Prefect shows it as offline after three
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "60",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Prefect's log of a step that was refused holds the sentence.
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            # Of the gateway: it has neither, and its version is the coordinator's.
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
            "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
            # Whatever else Prefect would read says otherwise.
            "PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "false",
            # a line for each event that a lost connection loses
            "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        }
        variables |= self.token_environment()
        if self.ca_file:
            variables["PREFECT_API_SSL_CERT_FILE"] = self.ca_file
        if self.proxy:
            variables["HTTP_PROXY"] = self.proxy
            variables["HTTPS_PROXY"] = self.proxy
        return variables

    def token_environment(self) -> dict[str, str]:
        """By which Prefect's client calls with this site's token, by REST and on its
        sockets. BadRequest as `secret`.
        """
        headers = {"Authorization": f"Bearer {self.secret('token')}"}
        return {"PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps(headers)}


def home() -> Path:
    """CONSILIUM_HOME: all state of what runs on this machine."""
    return Path(os.environ.get("CONSILIUM_HOME", ".consilium")).absolute()


def load_settings(site: Path) -> SiteSettings:
    """Reads a site folder. BadRequest names the file, the key and what to write.

    An address that is not given is that of a federation on this machine
    (CONSILIUM_API_PORT); a state folder that is not given is
    $CONSILIUM_HOME/sites/<name of the site folder>.
    """
    site = site.absolute()
    values = _read(site / "settings.toml")
    usual_state = home() / "sites" / site.name
    state = _state_folder(values.get("state", usual_state))
    api_port = os.environ.get("CONSILIUM_API_PORT", "5000")
    data_url = values.get("data_url", "duckdb:///{state}/hospital.duckdb")
    _check_left_secret(state)
    coordinator_url = _url(values, "coordinator_url", f"http://127.0.0.1:{api_port}")
    _check_encrypted(coordinator_url, allowed=values.get("insecure", False))
    _check_proxy(values.get("proxy"))
    optional = {key: values[key] for key in _OPTIONAL if key in values}
    return SiteSettings(
        site=site,
        user_id=_required(values, "user_id", site),
        name=_required(values, "name", site),
        coordinator_url=coordinator_url,
        data_url=data_url.replace("{state}", str(state)),
        state=state,
        partners=_partners(values, state),
        **optional,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise _wrong(
            "settings", f"{path} is not TOML ({error}).", "Correct that line."
        ) from None
    for key, value in values.items():
        if key in _GONE:
            raise _wrong(
                key,
                f"{path} has the key {key}, which is no setting any more.",
                f"Delete the line `{key} = ...`. {_GONE[key]}",
            )
        if key not in _KEYS:
            known_keys = ", ".join(_KEYS)
            raise _wrong(
                key, f"{path} has an unknown key {key}.", f"Known keys: {known_keys}."
            )
        wanted_type = _KEYS[key]
        if type(value) is not wanted_type:  # not isinstance: true is an int
            raise _wrong(
                key,
                f"{key} in {path} has the wrong type.",
                f"Write a {wanted_type.__name__}.",
            )
        if key in _LEAST and value < _LEAST[key]:
            raise _wrong(
                key, f"{key} in {path} is {value}.", f"Write {_LEAST[key]} or more."
            )
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise _wrong(
            "site",
            f"There is no {path}.",
            "Copy one from deployments/sites and fill it in.",
        ) from None
    except PermissionError:
        user = user_name()
        sentence = f"{path} cannot be read by the user {user}."
        remedy = "Run this as the agent's user; or give this one the site, as root:"
        give = f"chown -R {user}: {path.parent}, and the same of its state folder."
        raise _wrong("site", sentence, f"{remedy} {give}") from None
    except (OSError, UnicodeDecodeError) as error:
        sentence = f"{path} cannot be read ({type(error).__name__})."
        raise _wrong("settings", sentence, "Make it a readable UTF-8 file.") from None


def user_name() -> str:
    """Who runs this; the number of whom this machine has no name for, as in containers."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _state_folder(written: str | Path) -> Path:
    """The folder with what every site has in it, made where it is not; only its owner
    may enter.
    """
    state = Path(written).expanduser().absolute()
    try:
        for folder in ("data", "results"):
            make_private_folder(state / folder)
    except OSError as error:
        sentence = f"{state} cannot be made ({type(error).__name__})."
        raise _wrong(
            "state", sentence, "Give a folder that the agent may write to."
        ) from None
    return state


def _url(values: dict[str, Any], key: str, default: str) -> str:
    url = str(values.get(key, default))
    if not _is_usable(url):
        raise _wrong(
            key,
            f"{key} is no address.",
            "Write https://host:port, as the operator gave it to you.",
        )
    return url


def _check_left_secret(state: Path) -> None:
    """An earlier version's secret opened all of Prefect: it is not left lying about."""
    secret_path = state / "prefect_auth"
    if secret_path.exists():
        raise _wrong(
            "prefect_auth",
            f"{secret_path} is there, and no agent has such a secret any more.",
            f"Run: rm {secret_path}",
        )


def _check_encrypted(url: str, *, allowed: bool) -> None:
    address = urlsplit(url)
    if address.scheme == "https" or address.hostname in LOOPBACK or allowed:
        return
    raise _wrong(
        "coordinator_url",
        f"coordinator_url is not https ({address.hostname}): the token and all messages' "
        "addresses would travel readably.",
        "Ask the operator for an https address; on a network that you trust, write "
        "insecure = true.",
    )


def _check_proxy(proxy: str | None) -> None:
    """All clients of an agent can take it, Prefect's and the one of its sockets too.

    The sentence does not repeat the address: it may hold a password.
    """
    if proxy is None or _is_proxy(proxy):
        return
    raise _wrong(
        "proxy",
        "proxy in settings.toml is no address of an HTTP proxy.",
        "Write http://host:port or http://user:password@host:port, or leave the line out.",
    )


def _is_proxy(proxy: str) -> bool:
    if not _is_usable(proxy):
        return False
    address = urlsplit(proxy)
    has_both = (address.username is None) == (address.password is None)
    is_bare = address.path in ("", "/") and not address.query and not address.fragment
    return address.scheme == "http" and has_both and is_bare


def _is_usable(url: str) -> bool:
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError:  # brackets that do not match, a port that is no number
        return False
    is_http = address.scheme in ("http", "https")
    return is_http and bool(address.hostname) and port != 0


def _required(values: dict[str, Any], key: str, site: Path) -> Any:
    if key not in values:
        raise _wrong(
            key,
            f"{site / 'settings.toml'} lacks {key}.",
            "Write what the operator gave you.",
        )
    return values[key]


def _partners(values: dict[str, Any], state: Path) -> dict[int, Partner]:
    """Pins typed in by a person, and those that a one-machine federation writes for the
    sites it owns.
    """
    typed = values.get("partners", [])
    written = _written_partners(state / "partners.toml")
    try:
        partners = [_partner(entry) for entry in (*typed, *written)]
    except (KeyError, TypeError, ValueError):
        sentence = "A [[partners]] entry is not complete."
        raise _wrong(
            "partners", sentence, "Give user_id, name and fingerprint."
        ) from None

    pinned: dict[int, Partner] = {}
    for partner in partners:
        first_pin = pinned.setdefault(partner.user_id, partner)
        # Two pins for one hospital: whoever could write one of the files could stand in
        # for it (decision 16).
        if first_pin.fingerprint != partner.fingerprint:
            raise _wrong(
                "partners",
                f"Hospital {partner.user_id} is pinned twice, with different fingerprints.",
                "Compare the fingerprint by telephone again and keep the right entry, in settings.toml.",
            )
    return pinned


def _partner(entry: Any) -> Partner:
    return Partner(
        user_id=int(entry["user_id"]),
        name=str(entry["name"]),
        fingerprint=str(entry["fingerprint"]).strip().lower(),
    )


def _written_partners(path: Path) -> list[Any]:
    if not path.exists():
        return []
    try:
        entries = tomllib.loads(_text(path)).get("partners", [])
    except tomllib.TOMLDecodeError:
        raise _wrong(
            "partners", f"{path} is not TOML.", "Remove it, and pin in settings.toml."
        ) from None
    return entries if isinstance(entries, list) else [entries]


def _wrong(code: str, sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code=code)
