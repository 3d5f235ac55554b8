"""The files for container engines, as far as they can be read without one: nothing is
privileged, nothing is published, nothing but the state is written.
"""

from __future__ import annotations

import configparser
import re
from typing import Any

import yaml

from deployments.server import _parser
from tests.unit.test_arrows import ROOT

FOLDER = ROOT / "deployments" / "production"
SITE = "/etc/consilium/my-hospital"


def instructions(name: str = "Containerfile") -> list[tuple[str, str]]:
    """Of a Containerfile, lines that go on joined."""
    text = (FOLDER / name).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_built_from_a_bundle_and_runs_as_nobody_special() -> None:
    found = instructions()
    last = max(n for n, (word, _) in enumerate(found) if word == "FROM")
    final = found[last:]
    words = [word for word, _ in final]
    assert "ADD" not in [word for word, _ in found]
    assert not any("pip" in text or "curl" in text for _, text in found)
    assert "EXPOSE" not in words
    assert ("USER", "10001") in final
    # Whoever starts it is that user: nothing behind that line runs as root.
    assert "RUN" not in words[words.index("USER") :]
    assert ("VOLUME", "/var/lib/consilium") in final
    (check,) = [text for word, text in final if word == "HEALTHCHECK"]
    assert '"/opt/consilium/current/bin/consilium-agent", "keys"' in check
    (command,) = [text for word, text in final if word == "CMD"]
    assert yaml.safe_load(command) == ["start", "--site", SITE]
    # Both stages have the Python that a bundle is for.
    images = {text.split()[0] for word, text in found if word == "FROM"}
    assert len(images) == 1
    assert re.search(r"python:3\.(11|12|13)-slim", images.pop())


def test_the_compose_file_gives_no_privileges_and_no_port() -> None:
    document: Any = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
    (service,) = document["services"].values()
    assert "ports" not in service
    assert "privileged" not in service
    assert service["read_only"] is True
    assert service["user"] == "10001"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    written = [one for one in service["volumes"] if not one.endswith(":ro")]
    assert written == ["/var/lib/consilium:/var/lib/consilium"]


def test_the_quadlet_gives_no_privileges_and_no_port() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = (FOLDER / "consilium-agent.container").read_text("utf-8")
    parser.read_string(text)
    container = dict(parser["Container"])
    assert "PublishPort" not in container
    assert container["ReadOnly"] == "true"
    assert container["NoNewPrivileges"] == "true"
    assert container["DropCapability"] == "all"
    assert container["User"] == "10001"
    volumes = re.findall(r"(?m)^Volume=(.*)$", text)
    assert [one for one in volumes if not one.endswith(":ro")] == [
        "/var/lib/consilium:/var/lib/consilium"
    ]
    assert dict(parser["Service"])["RestartPreventExitStatus"] == "78"


SERVER: Any = yaml.safe_load((FOLDER / "compose.server.yaml").read_text("utf-8"))
OURS = ("prefect", "deploy", "api", "worker")


def test_the_server_s_image_takes_packages_by_their_hashes_and_runs_as_nobody_special() -> (
    None
):
    found = instructions("Containerfile.server")
    last = max(n for n, (word, _) in enumerate(found) if word == "FROM")
    words = [word for word, _ in found[last:]]
    assert ("USER", "10001") in found[last:]
    assert "RUN" not in words[words.index("USER") :]
    assert "ADD" not in words
    assert "EXPOSE" not in words
    installs = next(text.split("&&") for word, text in found if word == "RUN")
    fetching = [one for one in installs if "install" in one and "--no-index" not in one]
    assert len(fetching) == 1
    assert "--require-hashes" in fetching[0]
    # The files of a release, as it names them.
    (copied,) = [text for word, text in found[:last] if word == "COPY"]
    assert copied.split()[0] == "requirements-server-3.11.txt"
    assert "python:3.11-slim" in found[0][1]


def test_every_service_of_the_server_gives_up_its_privileges() -> None:
    for name, service in SERVER["services"].items():
        assert "privileged" not in service, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name != "postgres":
            assert service["read_only"] is True, name
        if name in (*OURS, "loopback"):
            assert service["user"] == "10001", name
            assert "cap_add" not in service, name
            assert service["image"] == "localhost/consilium-server:latest", name


def test_nginx_alone_is_reached_from_outside() -> None:
    """All listen on 127.0.0.1 of one network, whose two published ports are nginx's."""
    published = {
        name: service["ports"]
        for name, service in SERVER["services"].items()
        if "ports" in service
    }
    assert published == {"loopback": ["80:80", "443:443"]}
    for name, service in SERVER["services"].items():
        if name != "loopback":
            assert service["network_mode"] == "service:loopback", name
    assert SERVER["services"]["postgres"]["command"][-1] == "listen_addresses=127.0.0.1"
    assert "CONSILIUM_HOST" not in str(SERVER)
    served = (FOLDER / "nginx.conf").read_text("utf-8")
    assert set(re.findall(r"(?m)^    listen (\d+)", served)) == {"80", "443"}


def test_each_command_of_the_server_s_services_is_one_and_waits_for_what_it_needs() -> (
    None
):
    services = SERVER["services"]
    for name in OURS:
        assert services[name]["command"] == [name]
    parser = _parser()
    for name in OURS:
        assert parser.parse_args([name]).command == name
    needs = {name: list(services[name].get("depends_on", {})) for name in services}
    assert needs == {
        "loopback": [],
        "postgres": [],
        "prefect": ["postgres"],
        "deploy": ["prefect"],
        "api": ["deploy"],
        "worker": ["api"],
        "nginx": ["api"],
    }


def test_no_secret_stands_in_the_server_s_file() -> None:
    environment = SERVER["services"]["postgres"]["environment"]
    assert environment["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"
    assert "POSTGRES_PASSWORD" not in environment
    for name in OURS:
        assert "environment" not in SERVER["services"][name]
        assert SERVER["services"][name]["env_file"] == ["/etc/consilium/server.env"]
