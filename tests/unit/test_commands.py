"""The commands that documents name, called as they are written there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.__main__
import deployments.agent
import deployments.local.command
import deployments.server
from agents.site.policy import load_policy
from agents.site.settings import load_settings as load_site
from api.settings import load_settings
from api.store import Store
from benchmarks.peers import comparison
from deployments.local.sites import NAMED, prepare
from tests.conftest import ROOT, free_port
from tests.made_sites import make_site, policy_text
from tests.pairwise import quick


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONSILIUM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    "main",
    [deployments.agent.main, deployments.local.command.main, deployments.server.main],
)
def test_help_is_help(main: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])  # type: ignore[operator]
    assert ended.value.code == 0
    assert "usage: ./run" in capsys.readouterr().out


def test_a_hospital_is_added_gets_other_tokens_and_may_present_other_keys(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = deployments.server.main
    assert run(["add-hospital", "--user-id", "7", "--name", "hangzhou"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["user_id"], made["name"], set(made["tokens"])) == (
        7,
        "hangzhou",
        {"user", "agent"},
    )
    assert run(["token", "rotate", "agent", "--user-id", "7"]) == 0
    told = capsys.readouterr()
    store = Store(load_settings().store_url)
    assert store.hospitals.caller(made["tokens"]["agent"]) is None
    caller = store.hospitals.caller(told.out.strip())
    assert caller is not None
    assert (caller.role, caller.user_id) == ("agent", 7)
    store.hospitals.enrol(7, "keys", "1")
    assert run(["forget-keys", "--user-id", "7"]) == 0
    store.hospitals.enrol(7, "other keys", "1")
    store.close()


@pytest.mark.slow
def test_a_hospitals_page_is_at_the_port_that_was_asked_for(tmp_path: Path) -> None:
    site, port = (
        make_site(tmp_path, 2, {}, policy_text([2, 3, 4], [])).site,
        free_port(),
    )
    command = [
        sys.executable,
        "-m",
        "deployments.agent",
        "show",
        "--port",
        str(port),
        "--site",
        str(site),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as page:
        assert page.stdout is not None
        told = next(line for line in page.stdout if "http://" in line)
        page.terminate()
    assert f"http://127.0.0.1:{port}/" in told


@pytest.mark.parametrize("n_hospitals", quick([3, 4, 5, 8], 1))
def test_every_policy_of_a_federation_names_all_of_it(
    home: Path, n_hospitals: int
) -> None:
    """Else an order over more than the hospitals before the last one is refused."""
    sites = prepare(load_settings(), n_hospitals=n_hospitals)
    everybody = tuple(range(2, 2 + n_hospitals))
    assert [site.user_id for site in sites] == list(everybody)
    for site in sites:
        policy = load_policy(site.policy)
        assert (tuple(policy.orders.initiators), tuple(policy.orders.receivers)) == (
            everybody,
            everybody,
        )
        assert set(load_site(site.site).partners) == set(everybody) - {site.user_id}
    assert [site.name for site in sites[:3]] == list(NAMED)


def test_the_options_of_the_comparison_with_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(comparison, "main", lambda *, rounds: asked.append(rounds))
    monkeypatch.setattr("sys.argv", ["bench", "--peers", "--rounds", "7"])
    assert benchmarks.__main__.main() == 0
    assert asked == [7]


@pytest.mark.parametrize(
    ("failing", "code"),
    [(None, 0), ("test", 1), ("test --thorough", 1)],
    ids=["all pass", "first fails", "second fails"],
)
def test_continuous_integration_runs_both_layers_and_fails_with_either(
    tmp_path: Path, failing: str | None, code: int
) -> None:
    """On a copy whose `./run` only notes what it is asked, where no program has to be
    installed.
    """
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    for name in ("chromium", "chromedriver"):
        write_program(tmp_path / "bin" / name, "true")
    write_program(tmp_path / "run", f'echo "$*" >> asked; [ "$*" != "{failing}" ]')
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], env=environment, capture_output=True
    )
    assert done.returncode == code
    assert (tmp_path / "asked").read_text() == "test\ntest --thorough\n"


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    "command", quick(["agent", "demo", "up", "server", "bench"], 1)
)
def test_every_command_of_run_reaches_its_program(command: str) -> None:
    """A module without a main would do nothing, and call that success."""
    done = subprocess.run(
        ["./run", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout
    assert command in done.stdout


@pytest.mark.parametrize("program", ["deployments.agent", "deployments.server"])
def test_the_main_module_of_a_worker_is_not_run_again_in_its_flow_processes(
    program: str,
) -> None:
    """multiprocessing runs a main module again in each child, unless it is the
    `__main__` of a package.
    """
    found = importlib.util.find_spec(f"{program}.__main__")
    assert found is not None
