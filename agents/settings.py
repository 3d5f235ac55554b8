"""One hospital's installation: settings.toml in its site folder, and where its state lives."""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from protocol.errors import BadRequest

_KEYS = {
    "user_id": int,
    "name": str,
    "coordinator_url": str,
    "prefect_url": str,
    "data_url": str,
    "state": str,
    "ca_file": str,
    "proxy": str,
    "max_orders": int,
    "statement_timeout_seconds": int,
    "max_rows": int,
    "partners": list,
}


@dataclass(frozen=True)
class Partner:
    """A hospital that this one works with, and the fingerprint that was compared by telephone."""

    user_id: int
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Settings:
    """Where everything of one site is. `state` holds vault, ledger, log, data and results; nobody else reads it."""

    site: Path
    user_id: int
    name: str
    coordinator_url: str
    prefect_url: str
    data_url: str
    state: Path
    ca_file: str | None = None
    proxy: str | None = None
    max_orders: int = 4
    statement_timeout_seconds: int = 300
    max_rows: int = 10_000_000
    partners: Mapping[int, Partner] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        return f"hospital-{self.user_id}"

    @property
    def vault(self) -> Path:
        return self.state / "vault"

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.jsonl"

    @property
    def policy(self) -> Path:
        return self.site / "policy.toml"

    def secret(self, name: str) -> str:
        """A secret from a file of mode 0600 below the state folder."""
        path = self.state / name
        if not path.exists():
            raise _wrong(name, f"{path} is missing.", "Put the secret that the operator gave you there, mode 0600.")
        if path.stat().st_mode & 0o077:
            raise _wrong(name, f"{path} can be read by others.", f"Run: chmod 600 {path}")
        return path.read_text().strip()

    def client(self) -> httpx.Client:
        """HTTP to the coordinator, through the site's proxy and private CA where it has them."""
        verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        return httpx.Client(base_url=self.coordinator_url, verify=verify, proxy=self.proxy, trust_env=False)

    @property
    def prefect_auth(self) -> str | None:
        return self.secret("prefect_auth") if (self.state / "prefect_auth").exists() else None


def home() -> Path:
    """CONSILIUM_HOME: all state of what runs on this machine."""
    return Path(os.environ.get("CONSILIUM_HOME", ".consilium")).absolute()


def load_settings(site: Path) -> Settings:
    """Reads a site folder. BadRequest names the file, the key and what to write.

    Addresses that are not given are those of a federation on this machine (CONSILIUM_API_PORT and
    CONSILIUM_PREFECT_PORT); a state folder that is not given is $CONSILIUM_HOME/sites/<name of the site folder>.
    """
    site = site.absolute()
    values = _read(site / "settings.toml")
    state = Path(values.get("state", home() / "sites" / site.name)).absolute()
    for folder in ("data", "results"):
        (state / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    port, prefect_port = os.environ.get("CONSILIUM_API_PORT", "5000"), os.environ.get("CONSILIUM_PREFECT_PORT", "4200")
    return Settings(
        site=site,
        user_id=_required(values, "user_id", site),
        name=_required(values, "name", site),
        coordinator_url=values.get("coordinator_url", f"http://127.0.0.1:{port}"),
        prefect_url=values.get("prefect_url", f"http://127.0.0.1:{prefect_port}/api"),
        data_url=values.get("data_url", "duckdb:///{state}/hospital.duckdb").replace("{state}", str(state)),
        state=state,
        partners=_partners(values, state),
        **{
            key: values[key]
            for key in ("ca_file", "proxy", "max_orders", "statement_timeout_seconds", "max_rows")
            if key in values
        },
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise _wrong("site", f"There is no {path}.", "Copy one from deployments/sites and fill it in.")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise _wrong("settings", f"{path} is not TOML ({error}).", "Correct that line.") from None
    for key, value in values.items():
        if key not in _KEYS:
            raise _wrong(key, f"{path} has an unknown key {key}.", f"Known keys: {', '.join(_KEYS)}.")
        if type(value) is not _KEYS[key]:
            raise _wrong(key, f"{key} in {path} has the wrong type.", f"Write a {_KEYS[key].__name__}.")
    return values


def _required(values: dict[str, Any], key: str, site: Path) -> Any:
    if key not in values:
        raise _wrong(key, f"{site / 'settings.toml'} lacks {key}.", "Write what the operator gave you.")
    return values[key]


def _partners(values: dict[str, Any], state: Path) -> dict[int, Partner]:
    """Pins typed in by a person, and those that a one-machine federation writes for the sites it owns."""
    entries = list(values.get("partners", []))
    written = state / "partners.toml"
    if written.exists():
        entries += tomllib.loads(written.read_text()).get("partners", [])
    try:
        partners = [Partner(int(e["user_id"]), str(e["name"]), str(e["fingerprint"])) for e in entries]
    except (KeyError, TypeError, ValueError):
        raise _wrong(
            "partners", "A [[partners]] entry is not complete.", "Give user_id, name and fingerprint."
        ) from None
    return {partner.user_id: partner for partner in partners}


def _wrong(code: str, sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code=code)
