"""docs/notebook.md as it stands, over a real federation; and what it has read is
searched for in the coordinator's memory, disk and logs, in Prefect's, and in all that
agents and reader have exchanged with the coordinator.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import api.client
from api.client import Federation, Order
from api.client.reader import own_reader
from api.due_times import LEAST_SECONDS
from tests import bad_tables, captured_traffic
from tests.conftest import NO_AUTHORITY, ROOT, RunningFederation, free_port
from tests.faults.processes import wait_until
from tests.faults.relay import Relay

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

PAGE = ROOT / "docs" / "notebook.md"
PATIENTS = "SELECT * FROM data.breast_homo_guest WHERE id < 40"
LAB_VALUES = {
    "suzhou-szslyy": "csv",
    "zhejiang-zdey": "csv",
    "shanxi-xbfy": "parquet",
}
LABELLED = "a scheduled spread of glucose"
SITE = "shanxi-xbfy"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
N_DIGITS = 13


def url_of(link: Relay) -> str:
    return f"http://127.0.0.1:{link.port}"


def blocks() -> list[str]:
    return BLOCK.findall(PAGE.read_text("utf-8"))


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """To the coordinator's one port, for agents and readers; it keeps what passes."""
    made = Relay(free_port(), record=tmp_path_factory.mktemp("traffic"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def federation(
    tmp_path_factory: pytest.TempPathFactory, link: Relay
) -> Iterator[RunningFederation]:
    """One of its own: what was asked of the shared one before stands in its hospitals'
    memories, beside which the page's questions could tell of few people.
    """
    folder = tmp_path_factory.mktemp("readers")
    environment = {"CONSILIUM_SITES": str(folder / "sites")}
    running = RunningFederation(
        folder / "home",
        api_port=link.target,
        options=("--no-restart",),
        environment=environment,
    )
    bad_tables.prepare(running.env, running.sites)
    for name in LAB_VALUES:
        with (running.sites / name / "settings.toml").open("a") as settings:
            settings.write(f'coordinator_url = "{url_of(link)}"\n')
    running.start()
    yield running
    assert running.stop() == 0, running.logs()[-3000:]


@pytest.fixture(scope="module")
def notebook(
    federation: RunningFederation,
    link: Relay,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Any]]:
    """The names of the page's code, when all of it has run."""
    folder = tmp_path_factory.mktemp("notebook")
    key_folder = folder / "config"
    reader = own_reader(key_folder)
    done = federation.agent(SITE, "readers", "add", "lin", reader.fingerprint)
    assert done.returncode == 0, done.stderr
    names: dict[str, Any] = {}
    before = Path.cwd()
    transport = httpx.HTTPTransport(verify=NO_AUTHORITY, trust_env=False)
    real = api.client.Federation
    with (
        matplotlib.rc_context({"backend": "agg"}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        here = functools.partial(real, transport=transport, key_folder=key_folder)
        patch.setattr(api.client, "Federation", here)
        for block in blocks():
            text = block.replace("http://127.0.0.1:5000", url_of(link))
            text = text.replace(
                ".consilium/tokens.json", str(federation.home / "tokens.json")
            )
            exec(compile(text, str(PAGE), "exec"), names)  # noqa: S102
        names["folder"] = folder
        yield names
        names["federation"].close()
        plt.close("all")
    os.chdir(before)
    removed = federation.agent(SITE, "readers", "remove", "lin")
    assert removed.returncode == 0, removed.stderr


def coordinators_processes(federation: RunningFederation) -> Iterator[int]:
    """All that the federation has started but for the agents and what these started."""
    assert federation.process is not None
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [federation.process.pid]
    while waiting:
        pid = waiting.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"deployments.agent" in command:
            continue
        waiting += parents.get(pid, [])
        yield pid


def memory_of(pid: int) -> Iterator[bytes]:
    """All that a process can write into, piece by piece."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                place, modes, *_ = line.split()
                if not modes.startswith("rw"):
                    continue
                begin, end = (int(text, 16) for text in place.split("-"))
                try:
                    memory.seek(begin)
                    yield memory.read(end - begin)
                except (OSError, OverflowError, ValueError):
                    continue
    except OSError:
        return


def glucose() -> list[dict[str, str]]:
    """The page's own providers of joint statistics."""
    found = []
    for name, kind in LAB_VALUES.items():
        file = {"data_path": f"lab_values.{kind}", "data_type": kind}
        found.append({"name": name, **file, "key_column": "glucose"})
    return found


@contextlib.contextmanager
def without_a_key(federation: RunningFederation, link: Relay) -> Iterator[Federation]:
    """The same user, with nothing sealed to anybody."""
    with Federation(
        url_of(link),
        token_file=federation.home / "tokens.json",
        user=4,
        transport=httpx.HTTPTransport(verify=NO_AUTHORITY, trust_env=False),
    ) as plain:
        yield plain


def needles(numbers: Iterable[float]) -> set[bytes]:
    """As text and as 8 bytes; only numbers with digits enough to be nobody else's."""
    found = set()
    for number in numbers:
        text = repr(abs(float(number)))
        if len(text) > N_DIGITS + 2:
            found |= {text[:N_DIGITS].encode(), struct.pack("<d", float(number))}
    return found


@contextlib.contextmanager
def answers_pass(order: Order) -> Iterator[None]:
    """Report and predictions of an order are asked for again and again meanwhile."""
    is_enough = threading.Event()
    n_passed = 0
    failed: list[Exception] = []

    def ask() -> None:
        nonlocal n_passed
        try:
            while not is_enough.is_set():
                order.report()
                order.infer(PATIENTS)
                n_passed += 1
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        is_enough.set()
        asking.join(timeout=120)
    assert failed == []
    assert n_passed > 0


def in_memory(federation: RunningFederation, wanted: set[bytes]) -> set[bytes]:
    found = set()
    for pid in coordinators_processes(federation):
        for piece in memory_of(pid):
            found |= {needle for needle in wanted if needle in piece}
    return found


def on_disk(federation: RunningFederation, wanted: set[bytes]) -> set[bytes]:
    """In the coordinator's data, in Prefect's database, and in all of their logs."""
    found = set()
    folders = [federation.home / "coordinator", federation.home / "prefect"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    for path in [*paths, federation.home.parent / f"{federation.home.name}.log"]:
        content = path.read_bytes()
        found |= {needle for needle in wanted if needle in content}
    return found


def in_traffic(link: Relay, wanted: set[bytes]) -> set[bytes]:
    assert link.record is not None
    return captured_traffic.found_in(link.record, wanted)


def test_the_notebook_goes_from_a_key_to_a_forest_plot(
    notebook: dict[str, Any],
) -> None:
    report = notebook["report"]
    assert list(report.index) == ["(Intercept)", "x1", "x5", "x9"]
    assert (report["low"] < report["estimate"]).all()
    folder = notebook["folder"]
    assert (folder / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "report.csv").read_text().startswith("term,estimate,se")
    assert not notebook["later"].roc().empty
    assert notebook["question"].frame().shape == (1, 1)


@pytest.fixture(scope="module")
def scheduled(notebook: dict[str, Any]) -> pd.DataFrame:
    """What a schedule has answered at its first time, opened by this reader's key."""
    schedule = notebook["federation"].schedule_statistics(
        data_providers=glucose(),
        result_receivers=[SITE],
        method="std",
        name=LABELLED,
        interval_seconds=LEAST_SECONDS,
    )

    def answered() -> bool:
        return "success" in set(schedule.history()["state"])

    try:
        wait_until(answered, "the schedule's first answer", seconds=150)
        frame = schedule.last_answer()
    finally:
        schedule.delete()
    assert frame.attrs["order_id"] in schedule.history().index
    return frame


def test_a_schedule_s_answer_is_opened_by_its_reader_alone(
    federation: RunningFederation, link: Relay, scheduled: pd.DataFrame
) -> None:
    """The very number that the receiver has, and none in the coordinator's answer."""
    order_id = scheduled.attrs["order_id"]
    with without_a_key(federation, link) as plain:
        result = plain.order(order_id).result(progress=False)
    assert result.values is None
    written = federation.home / "sites" / SITE / "results" / result.path
    name, value = written.read_text().splitlines()
    assert scheduled[name].tolist() == [float(value)]


def test_what_was_read_is_nowhere_at_the_coordinator(
    federation: RunningFederation,
    link: Relay,
    notebook: dict[str, Any],
    scheduled: pd.DataFrame,
) -> None:
    order = notebook["order"]
    # A few of each: whole memories are searched for each of them.
    parts = {
        "report": needles([notebook["report"]["se"].iloc[1]]),
        "predictions": needles(order.infer(PATIENTS)["label"][:2]),
        "statistic": needles(notebook["question"].frame().to_numpy().ravel()),
        "schedule": needles(scheduled.to_numpy().ravel()),
    }
    wanted: set[bytes] = set()
    for name, part in parts.items():
        assert part, f"no number of {name} has digits enough to be searched for"
        wanted |= part
    with answers_pass(order):
        assert in_memory(federation, wanted) == set()
    assert in_memory(federation, wanted) == set()
    assert on_disk(federation, wanted) == set()
    # The coordinator knows a schedule's name: the search of its disk finds that.
    assert on_disk(federation, {LABELLED.encode()}) == {LABELLED.encode()}
    assert in_traffic(link, wanted) == set()
    # The reader has said that name, and all three agents pass here.
    said = {LABELLED.encode()}
    for name in LAB_VALUES:
        token = federation.home / "sites" / name / "token"
        said.add(token.read_bytes().strip())
    assert in_traffic(link, said) == said


def test_the_same_search_finds_a_statistic_that_passes_in_clear(
    federation: RunningFederation, link: Relay, notebook: dict[str, Any]
) -> None:
    """By disclose, which the demonstration's policies allow."""
    found: set[bytes] = set()
    with without_a_key(federation, link) as plain:
        # A busy machine may have written over it before its memory is searched.
        for _ in range(5):
            answer = plain.statistics(
                data_providers=glucose(),
                result_receivers=[SITE],
                method="var",
                disclose=True,
                progress=False,
            )
            wanted = needles(answer.frame().to_numpy().ravel())
            assert wanted
            found |= in_memory(federation, wanted)
            if found:
                break
    assert found
    assert in_traffic(link, wanted)


def test_the_same_search_finds_predictions_that_pass_in_clear(
    federation: RunningFederation, link: Relay, notebook: dict[str, Any]
) -> None:
    """By return_predictions, which the demonstration's policies allow."""
    with without_a_key(federation, link) as plain:
        order = plain.order(notebook["order"].order_id)
        found: set[bytes] = set()
        for _ in range(5):
            shown = order.infer("SELECT * FROM data.breast_homo_guest WHERE id < 400")
            wanted = needles(shown["label"][:3])
            found |= in_memory(federation, wanted)
            if found:
                break
    assert found
    assert in_traffic(link, wanted)


def test_the_page_names_every_picture() -> None:
    from api.client import study_pictures

    text = PAGE.read_text("utf-8")
    for name in ("forest", "roc", "calibration", "kaplan_meier", "histogram"):
        assert hasattr(study_pictures, name)
        assert f"`{name}(" in text
