"""A real nginx before a coordinator, with the documented file."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.certificates import Issued
from tests.conftest import ROOT, free_port

NAME = "consilium.example.org"
"""The coordinator's, in the documented file."""
FILE = ROOT / "deployments" / "production" / "nginx.conf"
PREFECTS_FILE = FILE.with_name("nginx.prefects.conf")
PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Call(NamedTuple):
    """A call that came to nginx, as its log has it when the call is over."""

    address: str
    port: int  # of nginx
    status: int
    upgrade: str  # "websocket", or "-"
    authorization: str
    request: str
    server: str  # that it was passed on to; "-" for none

    @property
    def path(self) -> str:
        return self.request.split(" ")[1].partition("?")[0]


LOG_FORMAT = " ".join(
    f'"{variable}"'
    for variable in (
        "$remote_addr",
        "$server_port",
        "$status",
        "$http_upgrade",
        "$http_authorization",
        "$request",
        "$upstream_addr",
    )
)


@dataclass(frozen=True)
class Nginx:
    """One that runs; what stands on 443 and 80 in the file listens on these ports."""

    folder: Path
    port: int
    clear_port: int

    def calls(self) -> list[Call]:
        """Every call that is over; sockets too, when they are closed."""
        lines = (self.folder / "access.log").read_text().splitlines()
        found = []
        for line in lines:
            address, port, status, *words = shlex.split(line)
            found.append(Call(address, int(port), int(status), *words))
        return found


@contextlib.contextmanager
def run_nginx(folder: Path, api_port: int, issued: Issued) -> Iterator[Nginx]:
    """The documented file with the ports and the certificate of this test, and nothing
    else changed.
    """
    nginx = Nginx(folder, free_port(), free_port())
    site = FILE.read_text("utf-8")
    # One process of the API here, which serves the page too.
    api = "server 127.0.0.1:5000;"
    assert site.count(api) == 2
    site = site.replace(api, f"server 127.0.0.1:{api_port};")
    for ours, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{nginx.port} ssl"),
        ("listen 80", f"listen 127.0.0.1:{nginx.clear_port}"),
        ("/etc/ssl/consilium/fullchain.pem", str(issued.certificate)),
        ("/etc/ssl/consilium/privkey.pem", str(issued.key)),
    ):
        assert site.count(ours) == 1, ours
        site = site.replace(ours, here)
    with _serving(folder, site, nginx.port):
        yield nginx


@contextlib.contextmanager
def run_balancer(folder: Path, prefect_ports: list[int]) -> Iterator[int]:
    """The documented file before these Prefect servers; its port. Which server was
    called is in access.log.
    """
    port = free_port()
    site = PREFECTS_FILE.read_text("utf-8")
    replaced = {"listen 127.0.0.1:4200;": f"listen 127.0.0.1:{port};"}
    for usual, here in zip((4201, 4202), prefect_ports, strict=True):
        replaced[f"server 127.0.0.1:{usual} "] = f"server 127.0.0.1:{here} "
    for ours, here in replaced.items():
        assert site.count(ours) == 1, ours
        site = site.replace(ours, here)
    with _serving(folder, site, port):
        yield port


@contextlib.contextmanager
def _serving(folder: Path, site: str, port: int) -> Iterator[None]:
    if PROGRAM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nginx is missing: apt-get install nginx")
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    (folder / "site.conf").write_text(site)
    config = folder / "nginx.conf"
    config.write_text(_around(folder))
    command = [PROGRAM, "-e", str(folder / "error.log"), "-c", str(config)]
    checked = subprocess.run(
        [*command, "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        _until_open(port, process)
        yield
    finally:
        process.terminate()
        process.wait()


def _around(folder: Path) -> str:
    """What stands around the documented file."""
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/pid;\nevents {{ worker_connections 4096; }}\n"
        f"http {{\nlog_format calls '{LOG_FORMAT}';\n"
        f"access_log {folder}/access.log calls;\n"
        f"{temporary}include {folder}/site.conf;\n}}\n"
    )


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=5),
        ):
            return
        assert process.poll() is None, "nginx ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)
