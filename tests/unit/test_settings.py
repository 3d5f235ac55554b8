"""settings.toml: what is missing, unknown or of another kind is refused by name;
secrets are for the owner alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agents.site.settings import SiteSettings, load_settings
from protocol.errors import BadRequest

PRINT = "0123-4567-89ab-cdef-0123-4567-89ab-cdef"
LEAST = 'user_id = 2\nname = "协和"\n'


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    for name in ("CONSILIUM_API_PORT", "CONSILIUM_PREFECT_PORT"):
        monkeypatch.delenv(name, raising=False)


def load(tmp_path: Path, text: str = LEAST) -> SiteSettings:
    site = tmp_path / "north"
    site.mkdir(exist_ok=True)
    (site / "settings.toml").write_text(text, "utf-8")
    return load_settings(site)


def pin(user_id: int, fingerprint: str = PRINT) -> str:
    return f'[[partners]]\nuser_id = {user_id}\nname = "H{user_id}"\nfingerprint = "{fingerprint}"\n'


def test_two_keys_are_enough_on_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_API_PORT", "5001")
    settings = load(tmp_path)
    assert (settings.user_id, settings.name, settings.pool) == (2, "协和", "hospital-2")
    assert settings.coordinator_url == "http://127.0.0.1:5001"
    assert settings.prefect_url == "http://127.0.0.1:5001/prefect/api"
    assert settings.state == tmp_path / "home" / "sites" / "north"
    assert settings.data_url == f"duckdb:///{settings.state}/hospital.duckdb"


def test_the_state_is_for_the_owner_alone(tmp_path: Path) -> None:
    state = load(tmp_path).state
    assert {
        folder.stat().st_mode & 0o777
        for folder in (state, state / "data", state / "results")
    } == {0o700}


def test_every_key_is_taken(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        LEAST
        + f'coordinator_url = "https://c.example"\ninsecure = false\ndata_url = "duckdb:////d"\n'
        f'state = "{tmp_path}/elsewhere"\nca_file = "/ca.pem"\nproxy = "http://proxy:3128"\nmax_orders = 1\n'
        f"statement_timeout_seconds = 5\nmax_rows = 7\n{pin(3)}{pin(4)}",
    )
    assert settings.state == tmp_path / "elsewhere"
    assert (
        settings.max_orders,
        settings.statement_timeout_seconds,
        settings.max_rows,
    ) == (1, 5, 7)
    assert sorted(settings.partners) == [3, 4]
    assert settings.partners[3].fingerprint == PRINT


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("user_id = 2", "name"),
        ('name = "a"', "user_id"),
        (LEAST + "max_order = 1", "max_order"),
        ('user_id = "2"\nname = "a"', "user_id"),
        ('user_id = true\nname = "a"', "user_id"),
        ('user_id = 1\nname = "a"', "user_id"),
        (LEAST + "max_orders = 0", "max_orders"),
        (LEAST + "coarse_tasks_above = -1", "coarse_tasks_above"),
        (LEAST + 'coarse_tasks_above = "many"', "coarse_tasks_above"),
        (LEAST + "max_rows = 0", "max_rows"),
        (LEAST + "statement_timeout_seconds = 0", "statement_timeout_seconds"),
        (LEAST + 'coordinator_url = "c.example:5000"', "coordinator_url"),
        (LEAST + 'coordinator_url = "file:///etc/passwd"', "coordinator_url"),
        (LEAST + 'prefect_url = "https://p.example/api"', "prefect_url"),
        (LEAST + 'prefect_auth = "consilium:abc"', "prefect_auth"),
        (LEAST + 'coordinator_url = "http://c.example"', "coordinator_url"),
        (LEAST + 'coordinator_url = "http://10.1.2.3:5000"', "coordinator_url"),
        (LEAST + "insecure = 1", "insecure"),
        (LEAST + 'state = "/proc/nowhere"', "state"),
        ("user_id = ", "settings"),
        (LEAST + "[[partners]]\nuser_id = 3\n", "partners"),
        (LEAST + "partners = [3]\n", "partners"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        load(tmp_path, text)
    assert caught.value.code == code
    assert caught.value.remedy


def test_no_site_folder(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="Copy one from deployments/sites"):
        load_settings(tmp_path / "nowhere")


def test_a_site_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service finds it where root has made the site: the remedy can be copied."""

    def refuse(*_: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_001)
    with pytest.raises(
        BadRequest, match="cannot be read by the user 4000001"
    ) as caught:
        load_settings(tmp_path)
    assert f"chown -R 4000001: {tmp_path}" in caught.value.remedy


def test_settings_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_bytes(b'name = "\xb1\xb1"')
    with pytest.raises(BadRequest, match="UTF-8"):
        load_settings(tmp_path)


def test_a_written_pin_does_not_replace_a_typed_one(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST + pin(3))
    written = settings.state / "partners.toml"
    written.write_text(pin(3, PRINT.upper()) + pin(4))
    assert sorted(load(tmp_path, LEAST + pin(3)).partners) == [3, 4]
    written.write_text(pin(3, PRINT.replace("0", "f")))
    with pytest.raises(BadRequest, match="pinned twice"):
        load(tmp_path, LEAST + pin(3))


@pytest.mark.parametrize(
    "text", ["partners = [", "partners = 3", '[partners]\nuser_id = "x"']
)
def test_damaged_written_pins(tmp_path: Path, text: str) -> None:
    (load(tmp_path).state / "partners.toml").write_text(text)
    with pytest.raises(BadRequest) as caught:
        load(tmp_path)
    assert caught.value.code == "partners"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_bytes(text.encode("latin-1"))
    path.chmod(mode)


def test_a_secret_of_the_right_mode(tmp_path: Path) -> None:
    settings = load(tmp_path)
    write(settings.state / "token", "abc\n")
    assert settings.secret("token") == "abc"


def test_prefect_is_asked_with_the_token(tmp_path: Path) -> None:
    settings = load(tmp_path)
    write(settings.state / "token", "abc\n")
    environment = settings.environment()
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:5000/prefect/api"
    assert json.loads(environment["PREFECT_CLIENT_CUSTOM_HEADERS"]) == {
        "Authorization": "Bearer abc"
    }
    assert environment["PREFECT_LOGGING_TO_API_ENABLED"] == "false"
    assert not [name for name in environment if "AUTH_STRING" in name]


def test_an_earlier_versions_secret_is_not_left_lying_about(tmp_path: Path) -> None:
    left = load(tmp_path).state / "prefect_auth"
    write(left, "consilium:abc\n")
    with pytest.raises(BadRequest, match=f"rm {left}") as caught:
        load(tmp_path)
    assert caught.value.code == "prefect_auth"


def test_a_key_that_is_gone_is_named_with_the_line_to_delete(tmp_path: Path) -> None:
    text = LEAST + 'prefect_url = "https://p.example/api"\n'
    with pytest.raises(BadRequest, match="Delete the line `prefect_url = "):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "line",
    [
        'coordinator_url = "https://c.example"',
        'coordinator_url = "http://127.0.0.1:5000"',
        'coordinator_url = "http://localhost:5000"',
        'coordinator_url = "http://[::1]:5000"',
        'coordinator_url = "http://c.example"\ninsecure = true',
    ],
)
def test_an_address_that_may_be_used(tmp_path: Path, line: str) -> None:
    settings = load(tmp_path, f"{LEAST}{line}\n")
    assert settings.prefect_url == f"{settings.coordinator_url}/prefect/api"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    settings = load(tmp_path)
    write(settings.state / "token", "abc", mode)
    with pytest.raises(BadRequest, match="chmod 600"):
        settings.secret("token")


@pytest.mark.parametrize("text", ["", " \n", "a\nb", "\xb1"])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    settings = load(tmp_path)
    write(settings.state / "token", text)
    with pytest.raises(BadRequest) as caught:
        settings.secret("token")
    assert text.strip() == "" or text.strip() not in str(caught.value)


def test_a_missing_secret_and_a_folder_in_its_place(tmp_path: Path) -> None:
    settings = load(tmp_path)
    for _ in range(2):
        with pytest.raises(BadRequest, match="missing"):
            settings.secret("token")
        (settings.state / "token").mkdir(exist_ok=True)


def test_passwords_are_in_no_repr(tmp_path: Path) -> None:
    text = (
        LEAST
        + 'data_url = "postgresql+psycopg://u:geheim@h/d"\nproxy = "http://u:geheim@proxy:1"'
    )
    assert "geheim" not in repr(load(tmp_path, text))


def test_a_private_ca_that_is_none(tmp_path: Path) -> None:
    for name in ("missing.pem", "settings.toml"):
        settings = load(tmp_path, LEAST + f'ca_file = "{tmp_path}/north/{name}"')
        with pytest.raises(BadRequest) as caught:
            settings.client()
        assert caught.value.code == "ca_file"


def test_the_client_goes_where_it_is_told(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with settings.client() as client, settings.client(settings.prefect_url) as other:
        assert str(client.base_url) == "http://127.0.0.1:5000"
        assert str(other.base_url) == "http://127.0.0.1:5000/prefect/api/"
