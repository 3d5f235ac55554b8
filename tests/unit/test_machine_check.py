"""What `check` says of the machine, and of the versions of others."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from agents.check.coordinator import check_registry
from agents.check.findings import guarded
from agents.check.machine import check_passwords, glibc_finding, python_finding
from agents.check.site import check_environment
from agents.site.settings import Partner, SiteSettings, load_settings
from protocol import VERSION
from tests.unit.test_wheels import an_environment


@pytest.fixture
def settings(tmp_path: Path) -> SiteSettings:
    site = tmp_path / "site"
    site.mkdir()
    text = f'user_id = 2\nname = "a"\nstate = "{tmp_path / "state"}"\n'
    (site / "settings.toml").write_text(text)
    partner = Partner(3, "b", "0")
    return dataclasses.replace(load_settings(site), partners={3: partner})


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 11), "ok"), ((3, 13), "ok"), ((3, 10), "warn"), ((3, 14), "warn")],
)
def test_a_python_for_which_there_is_a_release(
    version: tuple[int, int], state: str
) -> None:
    assert python_finding(version).state == state


@pytest.mark.parametrize(
    ("library", "version", "state"),
    [
        ("glibc", "2.34", "ok"),
        ("glibc", "2.36", "ok"),
        ("glibc", "2.33", "warn"),
        ("glibc", "2.9", "warn"),
        ("", "", "warn"),
        ("musl", "1.2", "warn"),
        ("glibc", "2", "warn"),
    ],
)
def test_the_c_library(library: str, version: str, state: str) -> None:
    found = glibc_finding(library, version)
    assert found.state == state
    assert bool(found.remedy) == (state != "ok")


@pytest.mark.parametrize(
    ("mode", "changes", "n_found"),
    [
        (0o644, {"data_url": "postgresql+psycopg://reader:secret@db/h"}, 1),
        (0o640, {"proxy": "http://user:secret@proxy:3128"}, 1),
        (0o600, {"data_url": "postgresql+psycopg://reader:secret@db/h"}, 0),
        (0o644, {"data_url": "postgresql+psycopg://reader@db/h"}, 0),
        (0o644, {"data_url": "duckdb:///[a:b"}, 0),
    ],
)
def test_a_password_is_for_its_owner_alone(
    mode: int, changes: dict[str, str], n_found: int, settings: SiteSettings
) -> None:
    (settings.site / "settings.toml").chmod(mode)
    found = list(check_passwords(dataclasses.replace(settings, **changes)))
    assert len(found) == n_found
    for finding in found:
        assert finding.state == "wrong"
        assert finding.remedy.startswith("Run: chmod go= ")
        assert "secret" not in finding.sentence + finding.remedy


def test_an_agent_beside_a_server_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody has installed both into one environment."""
    assert [one.state for one in guarded("environment", check_environment)] == ["ok"]
    packages = an_environment(tmp_path, "consilium-agent", "consilium-server")
    monkeypatch.setattr(sys, "path", [*packages, *sys.path])
    (found,) = guarded("environment", check_environment)
    assert found.state == "wrong"
    assert "venv" in found.remedy


def test_a_partner_of_another_version_is_named(settings: SiteSettings) -> None:
    rows = [
        {"user_id": 2, "agent_version": VERSION},
        {"user_id": 3, "agent_version": "0.9.0"},
        # No partner of this hospital; one that has never connected.
        {"user_id": 4, "agent_version": "0.9.0"},
        {"user_id": 5, "agent_version": None},
    ]
    found = list(check_registry({"data": {"hospitals": rows}}, settings))
    (of_version,) = [one for one in found if one.check == "version"]
    assert of_version.state == "warn"
    assert "hospital 3 was 0.9.0" in of_version.sentence
    assert VERSION in of_version.sentence
    assert of_version.remedy.startswith("Its IT upgrades")
    assert f"upgrade --site FOLDER --bundle consilium-agent-{VERSION}" in (
        of_version.remedy
    )
    rows[1]["agent_version"] = "99.0.0"
    found = list(check_registry({"data": {"hospitals": rows}}, settings))
    (of_version,) = [one for one in found if one.check == "version"]
    assert of_version.remedy.startswith("This hospital's IT upgrades")
    assert "consilium-agent-99.0.0-" in of_version.remedy
    rows[1]["agent_version"] = VERSION
    found = list(check_registry({"data": {"hospitals": rows}}, settings))
    assert "version" not in [one.check for one in found]
