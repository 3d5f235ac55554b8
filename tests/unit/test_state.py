"""The coordinator's files: what is empty or damaged is refused with what to do, and a
lost store is no first start.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from api.settings import CoordinatorSettings, load_settings
from api.store import Store
from deployments import coordinator, server, serving, state
from deployments.local import command as command_module
from deployments.local.federation import choose_ports
from deployments.local.sites import prepare
from deployments.processes import PartProcess, RunningParts
from protocol.errors import BadRequest, Conflict, Unavailable
from tasks.exit_codes import ExitCode
from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CoordinatorSettings:
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONSILIUM_API_PORT", str(free_port()))
    monkeypatch.setenv("CONSILIUM_PREFECT_PORT", str(free_port()))
    for name in ("CONSILIUM_STORE_URL", "CONSILIUM_PREFECT_URL", "CONSILIUM_HOST"):
        monkeypatch.delenv(name, raising=False)
    return load_settings()


@pytest.fixture
def started(settings: CoordinatorSettings) -> CoordinatorSettings:
    """A home in which a coordinator has run."""
    coordinator.make_ready(settings)
    return settings


def store_of(settings: CoordinatorSettings) -> Path:
    return settings.folder / "store.sqlite"


def set_store(settings: CoordinatorSettings, content: bytes | None) -> None:
    """The store with other bytes, or gone; with the files that SQLite keeps beside it."""
    for path in settings.folder.glob("store.sqlite*"):
        path.unlink()
    if content is not None:
        store_of(settings).write_bytes(content)


# Secrets


@pytest.mark.parametrize(
    "text",
    ["", " \n", "consilium", "consilium:", ":password", "a:b\nc", "\xb1:\xb1", "a:\0"],
)
def test_prefect_is_never_started_without_a_password(
    started: CoordinatorSettings, text: str
) -> None:
    path = started.folder / "prefect_auth"
    path.write_bytes(text.encode("latin-1"))
    for use in (state.prefect_auth, state.make_prefect_auth, coordinator.make_ready):
        with pytest.raises(Conflict, match="Restore it") as caught:
            use(started)
        assert caught.value.code == "secret"
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("name", ["page_key", "token"])
@pytest.mark.parametrize("text", ["", "\n", "\xff\xfe"])
def test_a_secret_that_is_none_is_not_replaced_silently(
    started: CoordinatorSettings, name: str, text: str
) -> None:
    path = started.folder / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(Conflict, match="Remove it") as caught:
        coordinator.make_ready(started)
    assert caught.value.code == "secret"
    path.unlink()
    coordinator.make_ready(started)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_page_key_cut_short(started: CoordinatorSettings) -> None:
    path = started.folder / "page_key"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Conflict, match="empty or damaged"):
        state.page_key(started)


def test_a_written_secret_replaces_a_readable_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    path.chmod(0o644)
    state.write_secret(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert os.listdir(tmp_path) == ["token"]


# Tokens of one machine


@pytest.fixture
def up(settings: CoordinatorSettings) -> CoordinatorSettings:
    """A home of `./run up`, whose hospitals' data are of no matter here."""
    prepare(settings, n_hospitals=1)
    return settings


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "[]",
        "null",
        "{}",
        '{"2": "abc"}',
        '{"operator": ""}',
        '{"operator": 5}',
        "\xff",
        "[" * 9999,
    ],
)
def test_damaged_tokens_are_not_replaced(
    up: CoordinatorSettings, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state.tokens_path(up).write_bytes(text.encode("latin-1"))
    assert command_module.main(["up", "--hospitals", "1"]) == ExitCode.NOT_READY
    assert "remove it" in one_line(capsys)
    assert state.tokens_path(up).read_bytes() == text.encode("latin-1")


def test_tokens_that_lack_a_hospital_are_damaged_and_can_be_made_anew(
    up: CoordinatorSettings,
) -> None:
    tokens = state.read_tokens(up)
    assert set(tokens) == {"operator", "2"}
    state.write_tokens(up, {"operator": tokens["operator"]})
    with pytest.raises(Conflict) as caught:
        prepare(up, n_hospitals=1)
    assert caught.value.code == "tokens"
    state.tokens_path(up).unlink()
    prepare(up, n_hospitals=1)
    made, store = state.read_tokens(up), state.open_store(up)
    assert [
        getattr(store.hospitals.caller(token), "user_id", 0)
        for token in (made["2"], tokens["2"])
    ] == [
        2,
        2,
    ]
    store.close()


def test_a_home_of_an_earlier_version_starts_as_before(up: CoordinatorSettings) -> None:
    """It has no mark and no checksum, and a hospital more is welcome."""
    (up.folder / "store_made").unlink()
    identity = next(up.home.glob("sites/*/vault/identity.json"))
    keys = json.loads(identity.read_text())["content"]
    identity.write_text(json.dumps(keys))
    tokens = state.read_tokens(up)
    prepare(up, n_hospitals=2)
    coordinator.make_ready(up)
    assert json.loads(identity.read_text())["content"] == keys
    assert state.read_tokens(up).items() > tokens.items()
    assert (up.folder / "store_made").exists()


# The store


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
@pytest.mark.parametrize(
    "left", ["store_made", "token", "page_key", "rounds", "../tokens.json"]
)
def test_a_lost_store_is_not_begun_anew(
    settings: CoordinatorSettings, left: str, content: bytes | None
) -> None:
    settings.folder.mkdir(parents=True)
    if content is not None:
        store_of(settings).write_bytes(content)
    (settings.folder / left).write_text("left")
    with pytest.raises(Conflict, match="new-store") as caught:
        state.open_store(settings)
    assert caught.value.code == "store_missing"
    assert store_of(settings).exists() == (content is not None)


def test_the_store_is_for_its_owner_alone(started: CoordinatorSettings) -> None:
    assert store_of(started).stat().st_mode & 0o777 == 0o600


def test_a_first_start_that_had_no_store_yet_goes_on(
    settings: CoordinatorSettings,
) -> None:
    state.make_prefect_auth(settings)
    store_of(settings).write_bytes(b"")
    state.open_store(settings).close()
    assert (settings.folder / "store_made").exists()


def test_the_operator_may_begin_anew(
    started: CoordinatorSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_store(started, None)
    for command in (["start"], ["api"]):
        assert server.main(command) == ExitCode.NOT_READY
        assert "./run server new-store" in one_line(capsys)
    assert server.main(["token", "issue", "operator"]) == 2
    assert command_module.main(["up", "--hospitals", "1"]) == ExitCode.NOT_READY
    assert capsys.readouterr().err.count("./run server new-store") == 2
    assert server.main(["new-store"]) == 0
    coordinator.make_ready(started)
    capsys.readouterr()
    assert server.main(["new-store"]) == 2
    assert "not empty; nothing was changed" in one_line(capsys)


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def noise(whole: bytes) -> bytes:
    return random.Random(5).randbytes(len(whole))


@pytest.mark.parametrize(
    "damage", [half, noise, lambda whole: whole[:700], lambda _: b"restored by hand\n"]
)
def test_a_damaged_store_is_a_sentence(
    started: CoordinatorSettings,
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with sa.create_engine(started.store_url).connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = damage(store_of(started).read_bytes())
    set_store(started, damaged)
    for command in (["start"], ["api"]):
        assert server.main(command) == ExitCode.NOT_READY
        assert "is damaged" in one_line(capsys)
    assert server.main(["new-store"]) == 2
    assert store_of(started).read_bytes() == damaged


def test_a_store_of_a_later_version_is_a_sentence(started: CoordinatorSettings) -> None:
    engine = sa.create_engine(started.store_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(Conflict, match="of another version") as caught:
        state.open_store(started)
    assert caught.value.code == "store"


@pytest.mark.parametrize("url", ["nonsense", "oracle9://a:geheim@h/d", ""])
def test_an_address_of_no_database(settings: CoordinatorSettings, url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        state.open_store(replace(settings, store_url=url))
    assert caught.value.code == "CONSILIUM_STORE_URL"
    assert "geheim" not in str(caught.value)


def test_a_database_that_is_away_may_come_back(settings: CoordinatorSettings) -> None:
    url = f"postgresql+psycopg://u:geheim@127.0.0.1:{free_port()}/d"
    with pytest.raises(Unavailable) as caught:
        state.open_store(replace(settings, store_url=url))
    assert "geheim" not in str(caught.value)
    assert serving.exit_code(caught.value) == 2


@pytest.fixture
def empty_postgresql() -> Iterator[str]:
    engine = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    name = f"consilium_state_{os.getpid()}"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except sa.exc.OperationalError:
        pytest.skip("No PostgreSQL here.")
    yield engine.url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def test_an_empty_postgresql_is_a_lost_store_too(
    started: CoordinatorSettings, empty_postgresql: str
) -> None:
    elsewhere = replace(started, store_url=empty_postgresql)
    with pytest.raises(Conflict, match="new-store"):
        state.open_store(elsewhere)
    store = Store(empty_postgresql)
    assert store.is_empty()
    store.close()
    state.begin_store(elsewhere).close()
    state.open_store(elsewhere).close()


# Ports, and what ends with a sentence


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("name", ["CONSILIUM_API_PORT", "CONSILIUM_PREFECT_PORT"])
@pytest.mark.parametrize("port", ["70000", "65536", "0", "-1", "http"])
@pytest.mark.parametrize(
    "main",
    [lambda: server.main([]), lambda: command_module.main(["up"])],
    ids=["server", "up"],
)
def test_a_port_that_is_none(
    settings: CoordinatorSettings,
    main: Callable[[], int],
    name: str,
    port: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, port)
    assert main() == ExitCode.NOT_READY
    assert one_line(capsys).startswith(name)


@pytest.mark.parametrize(
    "main",
    [lambda: server.main([]), lambda: command_module.main(["up"])],
    ids=["server", "up"],
)
def test_one_port_for_two(
    settings: CoordinatorSettings,
    main: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CONSILIUM_PREFECT_PORT", str(settings.port))
    assert main() == ExitCode.NOT_READY
    assert "Set one of them" in one_line(capsys)


PROCESSES = "CONSILIUM_API_PROCESSES"
STARTED = {
    "server": lambda: server.main([]),
    "api": lambda: server.main(["api"]),
    "page": lambda: server.main(["page"]),
    "up": lambda: command_module.main(["up"]),
}


@pytest.mark.parametrize("main", STARTED.values(), ids=STARTED)
@pytest.mark.parametrize("given", [True, False], ids=["sqlite:///", "no store"])
def test_several_processes_of_the_api_on_sqlite_are_refused_in_words(
    settings: CoordinatorSettings,
    main: Callable[[], int],
    given: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each would hear nothing of what the others store; nothing is made or started."""
    monkeypatch.setenv(PROCESSES, "2")
    if given:
        monkeypatch.setenv("CONSILIUM_STORE_URL", f"sqlite:///{store_of(settings)}")
    assert main() == ExitCode.NOT_READY
    words = one_line(capsys)
    assert words.startswith(f"{PROCESSES} is 2, and the store is SQLite")
    assert "Set CONSILIUM_STORE_URL to a PostgreSQL database" in words
    assert not store_of(settings).exists()


@pytest.mark.parametrize(
    ("n_processes", "words"),
    [
        ("0", "is not a whole number above 0"),
        ("-1", "is not a whole number above 0"),
        ("two", "is not a whole number above 0"),
        ("1.5", "is not a whole number above 0"),
        ("", "is not a whole number above 0"),
        ("64", None),
        ("65", "64 are the most"),
    ],
)
def test_a_number_of_processes(
    settings: CoordinatorSettings,
    monkeypatch: pytest.MonkeyPatch,
    n_processes: str,
    words: str | None,
) -> None:
    monkeypatch.setenv("CONSILIUM_STORE_URL", POSTGRES)
    monkeypatch.setenv(PROCESSES, n_processes)
    if words is None:
        assert load_settings().api_processes == int(n_processes)
        return
    with pytest.raises(BadRequest, match=words) as caught:
        load_settings()
    assert caught.value.code == PROCESSES


def test_the_page_of_several_processes_has_a_port_of_its_own(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_STORE_URL", POSTGRES)
    monkeypatch.setenv("CONSILIUM_PAGE_PORT", str(settings.port))
    assert load_settings().api_processes == 1
    monkeypatch.setenv(PROCESSES, "2")
    with pytest.raises(BadRequest) as caught:
        load_settings()
    assert caught.value.code == "CONSILIUM_PAGE_PORT"


@pytest.mark.parametrize("name", ["CONSILIUM_API_PORT", "CONSILIUM_PREFECT_PORT"])
@pytest.mark.parametrize(
    "main",
    [lambda: server.main([]), lambda: command_module.main(["up"])],
    ids=["server", "up"],
)
def test_a_port_that_is_taken(
    settings: CoordinatorSettings,
    main: Callable[[], int],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv(name, str(other.getsockname()[1]))
        assert main() == ExitCode.NOT_READY
    assert f"is taken. Set {name}" in one_line(capsys)


def test_a_prefect_elsewhere_is_an_address(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSILIUM_PREFECT_URL", "prefect.example.org")
    with pytest.raises(BadRequest) as caught:
        load_settings()
    assert caught.value.code == "CONSILIUM_PREFECT_URL"


def test_where_prefect_is_elsewhere_its_port_here_may_be_taken(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of several Prefect servers, or by their balancer."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("CONSILIUM_PREFECT_PORT", str(port))
        url = f"http://127.0.0.1:{port}/api"
        monkeypatch.setenv("CONSILIUM_PREFECT_URL", url)
        assert choose_ports(any_free=False).prefect_url == url


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("https://prefect.example.org/api", True),
        ("http://127.0.0.1:4200/api", True),
        ("http://[::1]:4200/api", True),
        ("http://prefect.example.org/api", False),
        ("http://10.0.0.1:4200/api", False),
        ("http://[::1/api", False),
        ("https:///api", False),
    ],
)
def test_prefects_string_never_travels_readably(
    settings: CoordinatorSettings,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    is_taken: bool,
) -> None:
    monkeypatch.setenv("CONSILIUM_PREFECT_URL", url)
    if is_taken:
        assert load_settings().prefect_url == url
        return
    with pytest.raises(BadRequest) as caught:
        load_settings()
    assert caught.value.code == "CONSILIUM_PREFECT_URL"


def test_prefects_string_of_an_earlier_version_is_taken_from_the_sites(
    up: CoordinatorSettings,
) -> None:
    """Otherwise none of their agents would start."""
    left = next((up.home / "sites").iterdir()) / "prefect_auth"
    left.write_text("consilium:abc")
    prepare(up, n_hospitals=1)
    assert not left.exists()


def test_prefect_listens_on_this_machine_alone(settings: CoordinatorSettings) -> None:
    everywhere = replace(settings, host="0.0.0.0")
    prefect, *_ = coordinator.parts_of_coordinator(everywhere, expected=0)
    where = prefect.argv.index("--host") + 1
    assert prefect.argv[where] == "127.0.0.1"


def test_a_home_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONSILIUM_HOME", "/proc/nowhere")
    assert server.main([]) == 2
    assert "/proc/nowhere" in one_line(capsys)


def test_a_part_that_needs_a_person_is_not_started_again(tmp_path: Path) -> None:
    words = "print('Its file is empty. Restore it.'); raise SystemExit(78)"
    part = PartProcess("api", [sys.executable, "-c", words], tmp_path / "api.log")

    async def keep() -> None:
        parts = RunningParts(restart=True)
        await parts.add(part)
        try:
            await asyncio.wait_for(parts.run(), 60)
        finally:
            await parts.stop()

    with pytest.raises(
        Conflict, match=r"api cannot run\. Its file is empty\. Restore it\."
    ):
        asyncio.run(keep())
    assert part.log.read_text().count("Restore it") == 1


@pytest.mark.parametrize("name", ["vault/identity.json", "prefect_auth"])
def test_an_agent_that_needs_a_person_says_so_once(
    up: CoordinatorSettings, name: str
) -> None:
    site = next((up.home / "sites").iterdir())
    (site / name).write_bytes(b"")
    command = [
        sys.executable,
        "-m",
        "deployments.agent",
        "start",
        "--site",
        str(ROOT / "deployments" / "sites" / site.name),
    ]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == ExitCode.NOT_READY
    assert str(site / name) in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
