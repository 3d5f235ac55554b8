"""From an enrolment file to a site: the coordinator's half over HTTP, the agent's by its
command line; what is wrong with a file, and what it leaves behind.
"""

from __future__ import annotations

import dataclasses
import datetime
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agents.site.settings import SiteSettings, load_settings
from agents.site.vault import Vault
from api.store.hospitals import ENROLMENT, ENROLMENT_DAYS, token_digest
from api.store.tables import utc_now
from deployments.agent import enrolling, main
from deployments.server import main as server
from deployments.server.enrolment import read_enrolment, write_enrolment
from deployments.state import new_token
from protocol.errors import BadRequest, Conflict, Forbidden
from tests.api.conftest import Coordinator
from tests.certificates import Authority

ADDRESS = "/hospitals/me/token"


@pytest.fixture
def file(coordinator: Coordinator, tmp_path: Path) -> Path:
    """A fresh one of hospital 5."""
    address = str(coordinator.client.base_url).rstrip("/")
    enrolment = read_enrolment(address, None, tmp_path / "elsewhere.enrol.toml")
    write_enrolment(coordinator.store, enrolment, 5, "elsewhere")
    return enrolment.path


def init(file: Path, folder: Path, *more: str) -> int:
    site, state = str(folder / "site"), str(folder / "state")
    return main(["init", "--enrol", str(file), "--site", site, "--state", state, *more])


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            stat.S_IMODE(path.stat().st_mode),
        )
        for path in folder.rglob("*")
    }


# What it makes


def test_a_file_makes_a_site_whose_token_the_coordinator_knows(
    coordinator: Coordinator,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # No Prefect stands behind this coordinator, and there is no database: `check` says so.
    assert init(file, tmp_path) == 1
    told = capsys.readouterr()
    site = tmp_path / "site"
    settings = load_settings(site)
    assert (settings.user_id, settings.name) == (5, "elsewhere")
    fingerprint = Vault(settings.vault).identity().public.fingerprint
    assert f"fingerprint  {fingerprint}" in told.out
    assert "ok     token        The coordinator accepts it." in told.out
    caller = coordinator.store.hospitals.caller(settings.secret("token"))
    assert caller is not None
    assert (caller.role, caller.user_id) == ("agent", 5)
    # Nobody else reads anything of it.
    kept = [site / "settings.toml", site / "policy.toml", settings.state / "token"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600] * 3
    assert stat.S_IMODE(site.stat().st_mode) == 0o700
    # What had been in the file is nowhere in the site.
    token = re.search(r'token = "([^"]+)"', file.read_text())
    assert token is not None
    for path in [*site.rglob("*"), *settings.state.rglob("*")]:
        assert not path.is_file() or token[1].encode() not in path.read_bytes()


def test_unit_and_quadlet_are_of_this_site(file: Path, tmp_path: Path) -> None:
    unit, quadlet = tmp_path / "agent.service", tmp_path / "agent.container"
    init(file, tmp_path, "--unit", str(unit), "--quadlet", str(quadlet))
    site, state = tmp_path / "site", tmp_path / "state"
    words = unit.read_text()
    assert re.search(rf"(?m)^ExecStart=.*start --site {site}$", words)
    assert f"ReadWritePaths={state}" in words
    assert "/etc/consilium/my-hospital" not in words
    assert f"Volume={site}:{site}:ro" in quadlet.read_text()
    assert f"Exec=start --site {site}" in quadlet.read_text()
    assert f"Volume={state}:{state}" in quadlet.read_text()


def test_folders_that_this_user_cannot_make_are_named_with_the_command(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As /etc and /var/lib are to the agent's user; the enrolment is not used up."""
    monkeypatch.setattr(enrolling.os, "access", lambda *_: False)
    assert init(file, tmp_path) == 2
    site, state = tmp_path / "site", tmp_path / "state"
    told = capsys.readouterr().err
    assert "install -d -m 700 -o" in told
    assert f"{site} {state}" in told
    assert not site.exists()
    assert not state.exists()


def test_root_is_told_to_give_the_site_to_the_unit_s_user(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who installs as root has a unit that runs as somebody who may not read the site."""
    monkeypatch.setattr(enrolling.os, "getuid", lambda: 0)
    # Where /etc/consilium is made for the site alone, its user has to enter that, too.
    site, state = tmp_path / "etc" / "site", tmp_path / "state"
    folders = ("--site", str(site), "--state", str(state))
    unit = str(tmp_path / "agent.service")
    main(["init", "--enrol", str(file), *folders, "--unit", unit])
    assert f"chown -R consilium: {site.parent} {state}" in capsys.readouterr().err


def test_an_installed_agent_s_unit_speaks_of_no_checkout(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolling, "is_installed", lambda _: True)
    init(file, tmp_path, "--unit", str(tmp_path / "agent.service"))
    words = (tmp_path / "agent.service").read_text()
    assert "./run" not in words
    assert "PROXY" not in words
    assert "User=" in words


def test_a_unit_reads_folders_of_any_name(file: Path, tmp_path: Path) -> None:
    """A space ends a word there, and % begins a name of systemd's."""
    unit, folder = tmp_path / "agent.service", tmp_path / "north 100%"
    init(file, folder, "--unit", str(unit))
    words = unit.read_text()
    written = str(folder).replace("%", "%%")
    assert f' --site "{written}/site"\n' in words
    assert f'ReadWritePaths="{written}/state"\n' in words
    assert f"WorkingDirectory={written}/state\n" in words
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        verified = subprocess.run(
            [analyze, "verify", str(unit)], capture_output=True, text=True, check=False
        )
        assert (verified.returncode, verified.stderr) == (0, "")


def test_a_unit_reads_quotes_and_variables_as_letters(
    file: Path, tmp_path: Path
) -> None:
    init(file, tmp_path)
    settings = load_settings(tmp_path / "site")
    odd = Path('/srv/north "a" $USER \\x')
    moved = dataclasses.replace(settings, site=odd, state=odd)
    words = enrolling.unit_text(moved)
    assert ' --site "/srv/north \\"a\\" $$USER \\\\x"\n' in words
    assert 'ReadWritePaths="/srv/north \\"a\\" $USER \\\\x"\n' in words


@pytest.mark.parametrize("name", ["north ward", "a:b", "100%", 'a"b'])
def test_a_quadlet_of_other_folders_is_refused_before_a_site_is_made(
    name: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    assert init(file, folder, "--quadlet", str(tmp_path / "agent.container")) == 2
    assert "cannot stand in a quadlet" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize("home", ["/home/agent", "/root", "/run/user/7"])
@pytest.mark.parametrize("name", ["site", "state"])
def test_a_unit_may_enter_the_home_that_a_site_stands_in(
    home: str, name: str, file: Path, tmp_path: Path
) -> None:
    """Homes are closed to it, and the agent would not start."""
    init(file, tmp_path)
    settings = load_settings(tmp_path / "site")
    assert "ProtectHome=true" in enrolling.unit_text(settings)
    moved = dataclasses.replace(settings, **{name: Path(home) / "consilium"})
    assert "ProtectHome=false" in enrolling.unit_text(moved)


# One use


def test_a_file_is_taken_once(
    coordinator: Coordinator,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever had it in between has nothing of it, and the second one is told."""
    init(file, tmp_path / "first")
    capsys.readouterr()
    assert init(file, tmp_path / "second") == 2
    told = capsys.readouterr().err
    assert "has been used" in told
    assert "somebody else may have had it" in told
    assert not (tmp_path / "second" / "site").exists()
    token = (tmp_path / "second" / "state" / "token").read_text()
    assert coordinator.store.hospitals.caller(token) is None


def test_who_did_not_hear_the_answer_asks_again(
    coordinator: Coordinator, file: Path, tmp_path: Path
) -> None:
    """As after a crash between the coordinator's answer and the site."""
    init(file, tmp_path)
    token = (tmp_path / "state" / "token").read_text()
    (tmp_path / "site" / "settings.toml").unlink()
    (tmp_path / "state" / "vault" / "identity.json").unlink()
    init(file, tmp_path)
    assert (tmp_path / "site" / "settings.toml").exists()
    assert (tmp_path / "state" / "token").read_text() == token


def test_an_enrolment_opens_nothing_else(coordinator: Coordinator) -> None:
    token = new_token(coordinator.store, ENROLMENT, 5)
    for method, path in (
        ("GET", "/hospitals"),
        ("PUT", "/hospitals/me"),
        ("GET", "/exchange/inbox"),
        ("GET", "/orders"),
    ):
        answer = coordinator.call(
            method, path, token, json={"identity": "0", "version": "1"}
        )
        assert answer.status_code == 403, path
        assert answer.json()["data"]["error"]["code"] == "token"
    assert coordinator.store.hospitals.caller(token) is None
    digest = {"digest": token_digest("a new one")}
    for who in ("agent-5", "user-5", "operator"):
        assert coordinator.call("PUT", ADDRESS, who, json=digest).status_code == 403


def test_an_enrolment_takes_over_no_token_that_is_known(
    coordinator: Coordinator,
) -> None:
    """Its own hospital's neither: that would say to a thief that it exists."""
    token = new_token(coordinator.store, ENROLMENT, 5)
    for who in ("operator", "agent-4", "agent-5", "user-5"):
        digest = token_digest(coordinator.tokens[who])
        answer = coordinator.call("PUT", ADDRESS, token, json={"digest": digest})
        assert answer.status_code == 403, who
    caller = coordinator.store.hospitals.caller(coordinator.tokens["operator"])
    assert caller is not None
    assert caller.role == "operator"


@pytest.mark.parametrize("body", [{}, {"digest": "x"}, {"digest": "AB" * 32}, []])
def test_no_digest_is_an_error_in_words(coordinator: Coordinator, body: object) -> None:
    token = new_token(coordinator.store, ENROLMENT, 5)
    answer = coordinator.call("PUT", ADDRESS, token, json=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["message"]


def test_an_enrolment_ends_by_itself_and_by_the_next(coordinator: Coordinator) -> None:
    hospitals = coordinator.store.hospitals
    first = new_token(coordinator.store, ENROLMENT, 5)
    late = utc_now() + datetime.timedelta(days=ENROLMENT_DAYS, seconds=1)
    with pytest.raises(Forbidden) as caught:
        hospitals.take_enrolment(first, token_digest("one"), now=late)
    assert caught.value.code == "enrolment_expired"
    hospitals.revoke_tokens(ENROLMENT, 5)
    with pytest.raises(Forbidden) as caught:
        hospitals.take_enrolment(first, token_digest("one"))
    assert caught.value.code == "enrolment_used"


# What is wrong with a file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("open", "can be read by others"),
        ("expired", "has expired"),
        ("cut", "is no enrolment file"),
        ("no token", "token is missing"),
        ("more", "data_url is no key of it"),
        ("other federation", "does not know this enrolment"),
        ("no coordinator", "does not answer"),
        ("no authority", "ca is no certificate"),
        ("no file", "is no enrolment file"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_no_site(
    change: str,
    words: str,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = file.read_text()
    match change:
        case "open":
            file.chmod(0o644)
        case "expired":
            text = re.sub("expires = .*", "expires = 2020-01-01T00:00:00Z", text)
        case "cut":
            text = text[: text.index("token") + 9]
        case "no token":
            text = re.sub("token = .*", "", text)
        case "more":
            text += 'data_url = "postgresql://elsewhere"\n'
        case "other federation":
            text = re.sub('token = "..', 'token = "__', text)
        case "no coordinator":
            text = re.sub(r":\d+\"", ':9"', text)
        case "no authority":
            text += 'ca = "none"\n'
        case "no file":
            file = tmp_path / "none"
    if change not in ("open", "no file"):
        file.write_text(text)
    assert init(file, tmp_path) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("page", [b"<html>", b"[]", b"7"])
def test_a_page_in_place_of_the_coordinators_answer_leaves_no_half_site(
    page: bytes,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=page)

    def client(settings: SiteSettings) -> httpx.Client:
        transport = httpx.MockTransport(answer)
        return httpx.Client(transport=transport, base_url="http://page")

    with monkeypatch.context() as patch:
        patch.setattr(SiteSettings, "client", client)
        assert init(file, tmp_path) == 2
    told = capsys.readouterr()
    assert "is no coordinator" in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "site").exists()
    # The file is still good.
    init(file, tmp_path)
    assert (tmp_path / "site" / "settings.toml").exists()


def test_init_over_a_site_changes_nothing(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(file, tmp_path)
    before = everything_in(tmp_path)
    capsys.readouterr()
    assert init(file, tmp_path) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert everything_in(tmp_path) == before
    # Nor over another site's vault, whose keys partners have pinned.
    assert (
        main(
            [
                "init",
                "--enrol",
                str(file),
                "--site",
                str(tmp_path / "new"),
                "--state",
                str(tmp_path / "state"),
            ]
        )
        == 2
    )
    assert everything_in(tmp_path) == before


# Whom the file says to trust


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[str, Authority, list[str]]]:
    """A server with a certificate of an authority of its own, and what it was sent."""
    authority = Authority(tmp_path, "own")
    heard: list[str] = []

    class Listening(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Listening)
    context = authority.issue("127.0.0.1").server_context()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", authority, heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_certificate_of_another_authority_gets_no_token(
    encrypted: tuple[str, Authority, list[str]],
    coordinator: Coordinator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, own, heard = encrypted
    other = Authority(tmp_path, "other")
    for authority, n_heard in ((other, 0), (own, 1)):
        path = tmp_path / f"{n_heard}.enrol.toml"
        write_enrolment(
            coordinator.store,
            read_enrolment(address, authority.pem, path),
            5,
            "elsewhere",
        )
        assert init(path, tmp_path) == 2
        assert len(heard) == n_heard
        told = capsys.readouterr().err
        assert ("is not trusted here" in told) == (n_heard == 0)
        assert not (tmp_path / "site").exists()


# The operator's half


@pytest.mark.parametrize(
    "address",
    [
        "http://consilium.example.org",
        "consilium.example.org",
        "https://",
        "https://[",
        "ftp://a",
    ],
)
def test_an_address_that_no_agent_may_call_is_refused(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="https"):
        read_enrolment(address, None, tmp_path / "file")


def test_no_file_is_written_over_and_no_authority_is_made_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("no certificate")
    with pytest.raises(Conflict):
        read_enrolment("https://a", None, path)
    for ca in (path, tmp_path / "none"):
        with pytest.raises(BadRequest, match="no certificate"):
            read_enrolment("https://a", ca, tmp_path / "other")


def test_the_file_is_its_owner_s_alone(file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.stat().st_uid == os.getuid()


def test_the_operator_s_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    ca = str(Authority(tmp_path, "own").pem)
    where = ["--address", "https://consilium.example.org", "--ca", ca]
    into = ["--into", str(tmp_path)]
    add = ["add-hospital", "--user-id", "7", "--name", "hangzhou"]
    assert (
        server(["add-hospital", "--user-id", "7", "--name", "x", "--address", "no"])
        == 2
    )
    capsys.readouterr()
    assert server([*add, *where, *into]) == 0
    told = json.loads(capsys.readouterr().out)
    # The agent's token is nowhere: the hospital makes it.
    assert set(told["tokens"]) == {"user"}
    path = Path(told["enrolment"])
    first = path.read_text()
    values = tomllib.loads(first)
    assert (values["user_id"], values["name"]) == (7, "hangzhou")
    assert values["ca"] == Path(ca).read_text()
    assert server(["enrol", "--user-id", "7", *where, *into]) == 2
    assert "exists already" in capsys.readouterr().err
    path.unlink()
    assert server(["enrol", "--user-id", "7", *where, *into]) == 0
    assert path.read_text() != first
    assert server(["enrol", "--user-id", "8", *where, *into]) == 2
