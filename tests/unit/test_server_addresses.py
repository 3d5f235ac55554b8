"""Addresses of SQL Server and Oracle: what is said of one that cannot be used, how rows
travel, and a driver that is not there.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.check.site import check_database
from agents.rows.database import dialect_of, open_source
from agents.rows.predictions import Target, write_predictions
from protocol.errors import BadRequest, ConsiliumError, Unavailable
from tests.fake_servers import URLS, columns, serve
from tests.made_rows import site_at

# --- addresses --------------------------------------------------------------------------

AWAY = {
    "tsql": "mssql+pymssql://u:hush@db.example.org/his",
    "oracle": "oracle+oracledb://u:hush@db.example.org/?service_name=his",
}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mssql://u:hush@db/his", "mssql+pymssql"),
        ("mssql+pyodbc://u:hush@db/his", "mssql+pymssql"),
        ("oracle://u:hush@db/his", "oracle+oracledb"),
        ("oracle+cx_oracle://u:hush@db/his", "oracle+oracledb"),
        ("sqlite:///hush.db", "Write duckdb"),
        ("db2+ibm_db://u:hush@db/his", "Write duckdb"),
        ("mssql+pymssql:///his", "no host"),
        ("oracle+oracledb://u:hush@db/", "service"),
        ("oracle+oracledb://u:hush@db/his?service_name=his", "service"),
        (AWAY["tsql"] + "?Encrypt=yes&password=hush", "no option Encrypt"),
        (AWAY["tsql"] + "?charset=cp936", "no option charset"),
        (AWAY["tsql"] + "?encryption=hush", "encryption is"),
        (AWAY["tsql"] + "?encryption=off&encryption=require", "twice"),
        (AWAY["oracle"] + "&protocol=hush", "protocol is"),
        (AWAY["oracle"] + "&ssl_server_dn_match=hush", "true or false"),
        (AWAY["tsql"] + "?insecure=1", "true or false"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(url: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        open_source(url)
    assert caught.value.code == "database_url"
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "option"),
    [
        ("tsql", "encryption=off"),
        ("tsql", "encryption=request"),
        ("oracle", "protocol=tcp"),
        ("oracle", "ssl_server_dn_match=false"),
    ],
)
def test_rows_travel_readably_only_where_the_address_says_so(
    dialect: str, option: str
) -> None:
    sign = "?" if dialect == "tsql" else "&"
    url = f"{AWAY[dialect]}{sign}{option}"
    with pytest.raises(BadRequest, match="readably") as caught:
        open_source(url)
    assert "insecure=true" in caught.value.remedy
    assert open_source(f"{url}&insecure=true").is_open
    assert not open_source(AWAY[dialect]).is_open
    here = url.replace("db.example.org", "127.0.0.1")
    assert not open_source(here).is_open


def test_rows_travel_encrypted_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [("COLUMNS", (columns("a", "b", "c"), []))]
    server = serve(monkeypatch, "tsql", answers)
    open_source(AWAY["tsql"]).describe()
    assert server.arguments["encryption"] == "require"
    server = serve(monkeypatch, "oracle", [("all_tab", (columns("a", "b", "c"), []))])
    open_source(AWAY["oracle"]).describe()
    told = {key: server.arguments[key] for key in ("protocol", "port", "service_name")}
    assert told == {"protocol": "tcps", "port": 2484, "service_name": "his"}
    assert "insecure" not in server.arguments


@pytest.fixture
def listener() -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A port, and what the first who connects to it says first."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]

        def listen() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(10)
                heard.append(connection.recv(4096))
                server.close()  # or the driver would try once more, and wait

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()

        def first_words() -> bytes:
            thread.join(10)
            return heard[0]

        yield port, first_words


def test_oracles_driver_begins_with_tls(
    listener: tuple[int, Callable[[], bytes]],
) -> None:
    port, first_words = listener
    url = f"oracle+oracledb://u:hush@127.0.0.1:{port}/?service_name=his&protocol=tcps"
    with pytest.raises(Unavailable):
        open_source(url).describe()
    assert first_words()[:2] == b"\x16\x03"  # a handshake


@pytest.mark.parametrize(("option", "level"), [("require", 1), ("off", 2)])
def test_sql_servers_driver_asks_for_encryption(
    option: str, level: int, listener: tuple[int, Callable[[], bytes]]
) -> None:
    """The first packet, PRELOGIN, has an option ENCRYPTION: 1 is on, 0 of the password
    only, 2 not at all (MS-TDS 2.2.6.5).
    """
    port, first_words = listener
    url = f"mssql+pymssql://u:hush@127.0.0.1:{port}/his?encryption={option}"
    with pytest.raises(Unavailable):
        open_source(url).describe()
    packet = first_words()
    assert packet[0] == 0x12
    assert prelogin_option(packet, 1) == level


def prelogin_option(packet: bytes, wanted: int) -> int:
    """The first byte of an option's value."""
    place = 8
    while packet[place] != 0xFF:
        if packet[place] == wanted:
            offset = int.from_bytes(packet[place + 1 : place + 3], "big")
            return packet[8 + offset]
        place += 5
    raise AssertionError("the option is not there")


# --- what is missing, and what is not done ----------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "module", "extra"),
    [("tsql", "pymssql", "sqlserver"), ("oracle", "oracledb", "oracle")],
)
def test_a_driver_that_is_missing_is_named_with_the_line_that_installs_it(
    dialect: str,
    module: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dialect_of.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    settings = site_at(URLS[dialect], tmp_path)
    for read in (open_source, dialect_of):
        with pytest.raises(BadRequest, match=module) as caught:
            read(settings.data_url)
        assert caught.value.code == "database_url"
        assert f"pip install 'consilium-agent[{extra}]'" in caught.value.remedy
        assert f"requirements-{extra}.txt" in caught.value.remedy
    with pytest.raises(ConsiliumError, match=module):
        list(check_database(settings))


def test_check_warns_of_rows_that_travel_readably(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = (columns("a", "b", "c"), [["HIS", "T", "ID"]])
    server = serve(monkeypatch, "oracle", [("all_tab_columns", found)])
    url = AWAY["oracle"] + "&protocol=tcp&insecure=true"
    findings = list(check_database(site_at(url, tmp_path)))
    assert "unencrypted" in findings[0].sentence
    assert server.arguments["protocol"] == "tcp"


@pytest.mark.parametrize("dialect", URLS)
def test_predictions_are_written_into_neither(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(monkeypatch, dialect)
    with pytest.raises(BadRequest, match="Name a file") as caught:
        write_predictions([], Target(table="HIS.P", url=URLS[dialect]), model_id=1)
    assert caught.value.code == "into"
    assert server.connections == []
