"""An agent's token may be replaced while it runs: Prefect is asked with the new one at
the next call, and flow processes that start then have it too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from agents.site.settings import SiteSettings
from tasks import flow_process
from tasks.hospital.worker import HospitalWorker, RotatedToken


@pytest.fixture
def settings(tmp_path: Path) -> SiteSettings:
    (tmp_path / "vault").mkdir(mode=0o700)
    return SiteSettings(
        tmp_path, 2, "here", "http://127.0.0.1:9", "duckdb://", tmp_path
    )


def put(settings: SiteSettings, token: str, mode: int = 0o600) -> None:
    path = settings.state / "token"
    path.write_text(token)
    path.chmod(mode)


def test_each_call_has_the_token_that_its_file_has(settings: SiteSettings) -> None:
    put(settings, "first")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200)

    auth = RotatedToken(lambda: settings.secret("token"))
    stale = {"Authorization": "Bearer first"}  # Prefect's client keeps it as a default
    with httpx.Client(
        transport=httpx.MockTransport(answer), headers=stale, auth=auth
    ) as client:
        for token, mode in (
            ("first", 0o600),
            ("second", 0o600),
            ("open to all", 0o644),  # counts as none: the one before is sent
            ("third", 0o600),
        ):
            put(settings, token, mode)
            client.get("http://coordinator/")
    assert seen == ["Bearer first", "Bearer second", "Bearer second", "Bearer third"]


def _told(environment: dict[str, str], pipe: Any) -> None:
    """In another process: what Prefect's clients there would send."""
    from prefect.settings import get_current_settings

    flow_process._take_environment(environment)
    pipe.send(get_current_settings().client.custom_headers)


def test_a_flow_process_that_starts_now_has_the_new_one(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fork of a process in which Prefect has read its settings long ago."""
    put(settings, "first")
    old = settings.token_environment()
    for name, value in old.items():
        monkeypatch.setitem(os.environ, name, value)
    post: Any = None
    worker = HospitalWorker(settings, flows=ModuleType("none"), post=post)
    assert worker.flow_environment() == old
    put(settings, "second")
    near, far = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_told, args=(dict(worker.flow_environment()), far))
    child.start()
    assert near.poll(120)
    assert near.recv() == {"Authorization": "Bearer second"}
    child.join()


def test_a_token_that_cannot_be_read_ends_no_worker(settings: SiteSettings) -> None:
    put(settings, "first")
    post: Any = None
    worker = HospitalWorker(settings, flows=ModuleType("none"), post=post)
    (settings.state / "token").unlink()
    assert worker.flow_environment() == {}
    put(settings, "second")
    (header,) = worker.flow_environment().values()
    assert json.loads(header) == {"Authorization": "Bearer second"}
