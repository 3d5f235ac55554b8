"""The coordinator's settings: environment variables, each with one meaning and a safe default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import BadRequest

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """Where the coordinator keeps its state and how it listens."""

    home: Path
    host: str
    port: int
    store_url: str
    prefect_url: str
    prefect_page: str
    authentication: bool
    accept_seconds: float
    max_body_bytes: int
    max_message_bytes: int
    calls_per_second: float
    retention_days: float

    @property
    def folder(self) -> Path:
        return self.home / "coordinator"


def load_settings() -> Settings:
    """Reads the environment. BadRequest for a combination that would not be safe."""
    env = os.environ.get
    home = Path(env("CONSILIUM_HOME", ".consilium")).absolute()
    host, authentication = env("CONSILIUM_HOST", "127.0.0.1"), env("CONSILIUM_AUTH", "on") != "off"
    if not authentication and host not in LOOPBACK:
        raise BadRequest(
            f"CONSILIUM_AUTH is off and CONSILIUM_HOST is {host}: everybody on that network could order and read.",
            remedy="Listen on 127.0.0.1, or leave CONSILIUM_AUTH on.",
            code="CONSILIUM_AUTH",
        )
    prefect_port = env("CONSILIUM_PREFECT_PORT", "4200")
    prefect = env("CONSILIUM_PREFECT_URL", f"http://127.0.0.1:{prefect_port}/api")
    return Settings(
        home=home,
        host=host,
        port=int(env("CONSILIUM_API_PORT", "5000")),
        store_url=env("CONSILIUM_STORE_URL", f"sqlite:///{home / 'coordinator' / 'store.sqlite'}"),
        prefect_url=prefect,
        prefect_page=env("CONSILIUM_PREFECT_PAGE") or prefect.removesuffix("/api"),
        authentication=authentication,
        accept_seconds=float(env("CONSILIUM_ACCEPT_SECONDS", "30")),
        max_body_bytes=int(env("CONSILIUM_MAX_BODY_BYTES", str(2**20))),
        max_message_bytes=int(env("CONSILIUM_MAX_MESSAGE_BYTES", str(2**28))),
        retention_days=float(env("CONSILIUM_RETENTION_DAYS", "30")),
        calls_per_second=float(env("CONSILIUM_CALLS_PER_SECOND", "300")),
    )
