"""The one variable that stands for all of Prefect's when several servers share a Redis."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from deployments import several_prefects
from deployments.coordinator import prefect_variables
from deployments.several_prefects import DATABASE, REDIS, redis_variables
from protocol.errors import BadRequest

URL = "redis://default:hush@127.0.0.1:6379/3"


@pytest.fixture(autouse=True)
def _on_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREFECT_REDIS", "PREFECT_SERVER", "PREFECT_MESSAGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(DATABASE, "postgresql+asyncpg://prefect@127.0.0.1/prefect")
    monkeypatch.setenv(REDIS, URL)


def refused() -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        redis_variables()
    assert caught.value.code == REDIS
    assert REDIS in caught.value.sentence
    return caught.value


def test_without_a_redis_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REDIS)
    monkeypatch.delenv(DATABASE)
    assert redis_variables() == {}


def test_prefect_reads_every_one_of_these_variables() -> None:
    """In a process of its own, as the server is: Prefect reads them once."""
    program = (
        "from prefect.settings import get_current_settings\n"
        "from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings\n"
        "from prefect_redis.client import RedisMessagingSettings\n"
        "from prefect_redis.messaging import RedisMessagingPublisherSettings\n"
        "server = get_current_settings().server\n"
        "print(server.events.messaging_broker, server.events.messaging_cache,\n"
        "  server.events.causal_ordering, server.concurrency.lease_storage,\n"
        "  server.worker_channel.cleanup_queue_storage, server.docket.name,\n"
        "  server.docket.url, RedisMessagingSettings().url,\n"
        "  RedisWorkerCleanupQueueSettings().url,\n"
        "  RedisMessagingPublisherSettings().publish_every.total_seconds())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **prefect_variables()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [
        "prefect_redis.messaging",
        "prefect_redis.messaging",
        "prefect_redis.ordering",
        "prefect_redis.lease_storage",
        "prefect_redis.cleanup_queue",
        "consilium-3",
        URL,
        URL,
        URL,
        "1.0",
    ]


def test_every_module_that_is_named_is_there() -> None:
    values = redis_variables().values()
    modules = {value for value in values if value.startswith("prefect_redis.")}
    assert len(modules) == 4
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_what_the_environment_says_of_prefect_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DOCKET_NAME", "another")
    assert prefect_variables()["PREFECT_SERVER_DOCKET_NAME"] == "another"


@pytest.mark.parametrize(
    "url",
    [
        "redis",
        ":x@127.0.0.1:6379/3",
        "http://:x@127.0.0.1:6379/3",
        "redis://:x@/3",
        "redis://:x@127.0.0.1:6379",
        "redis://:x@127.0.0.1:6379/",
        "redis://:x@127.0.0.1:6379/x",
        "redis://:x@127.0.0.1:6379/-1",
        "redis://:x@127.0.0.1:6379/3/4",
        "redis://:x@127.0.0.1:6379/3?db=4",
        "redis://:x@127.0.0.1:0/3",
        "redis://:x@127.0.0.1:99999/3",
        "redis://:x@[::1/3",
        " redis://:x@127.0.0.1:6379/3",
    ],
)
def test_an_address_without_a_database_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS, url)
    assert several_prefects.EXAMPLE in refused().remedy


def test_a_password_never_travels_readably_nor_stands_in_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(REDIS, "redis://default:hush@10.0.0.1:6379/3")
    error = refused()
    assert "hush" not in f"{error.sentence} {error.remedy}"
    assert "rediss://" in error.remedy
    for url in ("rediss://default:hush@10.0.0.1:6379/3", "redis://:hush@localhost/3"):
        monkeypatch.setenv(REDIS, url)
        assert redis_variables()["PREFECT_SERVER_DOCKET_URL"] == url


@pytest.mark.parametrize("who", ["", "default@", ":@", "default:@"])
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_redis_that_anybody_can_write_to_is_refused(
    who: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands there to be done is unpickled by Prefect's server."""
    monkeypatch.setenv(REDIS, f"{scheme}://{who}127.0.0.1:6379/3")
    assert "requirepass" in refused().remedy


@pytest.mark.parametrize("database", [None, "", "sqlite+aiosqlite:////tmp/prefect.db"])
def test_servers_with_a_database_each_are_refused(
    database: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATABASE)
    if database is not None:
        monkeypatch.setenv(DATABASE, database)
    assert DATABASE in refused().remedy


def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(several_prefects, "is_installed", lambda package: False)
    assert "consilium-server[redis]" in refused().remedy
