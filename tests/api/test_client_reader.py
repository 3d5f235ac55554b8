"""The client's own key, and what it opens: against the coordinator's real application,
with a hospital's agent played here.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.client import Federation
from api.client.__main__ import main
from api.client.reader import KEY_FILE, Reader, config_folder, own_reader
from protocol.errors import BadRequest, NotFound, ProtocolViolation
from protocol.readers import AnswerPlace, SealedAnswer, seal_answer
from protocol.sealing import Identity
from tests.api.conftest import Coordinator
from tests.api.test_client import federation_of, question
from tests.conftest import ROOT

AGENT = Identity(b"a" * 32, b"b" * 32)
REPORT = {
    "report": {
        "terms": [
            {
                "term": "(Intercept)",
                "estimate": -1.5,
                "se": 0.5,
                "low": -2.5,
                "high": -0.5,
            },
            {"term": "age", "estimate": 0.25, "se": 0.1, "low": 0.05, "high": 0.45},
        ],
        "n": 684,
    }
}
GLM = {
    "model_type": "glm",
    "model_params": {"family": "binomial"},
    "party_id": [2, 3],
    "data_info": dict.fromkeys(("2", "3", "4"), "SELECT * FROM data.visits"),
    "unique_id": "id",
    "attributes": ["x1"],
    "label_name": "y",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "config" / "consilium"


@pytest.fixture
def federation(coordinator: Coordinator, folder: Path) -> Iterator[Federation]:
    with federation_of(coordinator, user=4, sealed=True, key_folder=folder) as opened:
        yield opened


def put_answer(
    coordinator: Coordinator,
    order_id: int,
    kind: str,
    content: Any,
    *,
    identity: Identity = AGENT,
) -> None:
    """What hospital 4's agent does at the end of an order, by the order's document."""
    document = json.loads(coordinator.store.orders.get(order_id).document)
    key = document.get("reader") or document["request"]["reader"]
    place = AnswerPlace(order_id, kind, 4)
    box = seal_answer(
        bytes.fromhex(key), json.dumps(content).encode(), place=place, identity=identity
    )
    coordinator.give_places()
    path = f"/exchange/{order_id}/answer/0/0/0/4/1"
    answer = coordinator.call("PUT", path, "agent-4", content=box)
    assert answer.status_code == 201, answer.text


def sealed(reader: Reader, payload: bytes = b"{}", **place: Any) -> SealedAnswer:
    at = AnswerPlace(**{"order_id": 41, "kind": "report", "hospital": 4, **place})
    box = seal_answer(bytes.fromhex(reader.public), payload, place=at, identity=AGENT)
    return SealedAnswer(at, reader.fingerprint, box)


# The key


def test_a_key_is_made_once_and_is_this_user_s_alone(folder: Path) -> None:
    first = own_reader(folder)
    assert own_reader(folder) == first
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]


def test_of_two_processes_at_once_one_key_stands(folder: Path) -> None:
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(own_reader(folder).fingerprint))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_the_folder_is_where_xdg_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_folder() == tmp_path / "consilium"
    monkeypatch.setenv("HOME", str(tmp_path))
    for other in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", other)
        assert config_folder() == tmp_path / ".config" / "consilium"


def test_a_key_that_others_can_read_is_not_used(folder: Path) -> None:
    own_reader(folder)
    (folder / KEY_FILE).chmod(0o640)
    with pytest.raises(BadRequest, match="chmod 600") as caught:
        own_reader(folder)
    assert caught.value.code == "reader_key"


@pytest.mark.parametrize("content", [b"", b"abcd\n", b"\xff" * 64, b"g" * 64])
def test_a_damaged_key_is_no_first_use(folder: Path, content: bytes) -> None:
    own_reader(folder)
    (folder / KEY_FILE).write_bytes(content)
    with pytest.raises(BadRequest) as caught:
        own_reader(folder)
    assert caught.value.code == "reader_key"
    assert (folder / KEY_FILE).read_bytes() == content


# Orders whose answer is sealed


def test_a_report_is_a_frame(coordinator: Coordinator, federation: Federation) -> None:
    order = federation.submit(GLM)
    put_answer(coordinator, order.order_id, "report", REPORT)
    found = order.report()
    assert found.loc["age", ["low", "high"]].tolist() == [0.05, 0.45]
    assert found.attrs["n"] == 684
    assert found.attrs["hospital"] == AGENT.public.fingerprint
    assert "note" not in found.attrs
    assert order.answer() == REPORT
    # It is the key whose fingerprint the hospital lists.
    record = SealedAnswer.read(
        coordinator.call("GET", f"/orders/{order.order_id}/answer").text
    )
    assert record.reader == federation.reader


def test_an_order_without_a_report_goes_as_it_did(federation: Federation) -> None:
    lr = {**GLM, "model_type": "lr", "model_params": {}}
    order = federation.submit(lr)
    with pytest.raises(BadRequest) as caught:
        order.report()
    assert caught.value.code == "reader"


def test_predictions_are_a_frame(
    coordinator: Coordinator, federation: Federation
) -> None:
    order = federation.submit(GLM)
    coordinator.store.orders.end(order.order_id, "success")
    found: list[Any] = []
    asking = threading.Thread(
        target=lambda: found.append(order.infer("SELECT * FROM data.visits"))
    )
    asking.start()
    infer_id = order.order_id + 1
    for _ in range(500):
        try:
            put_answer(
                coordinator, infer_id, "predictions", [{"id": "7", "label": 0.5}]
            )
            break
        except NotFound:
            threading.Event().wait(0.02)
    asking.join(timeout=60)
    assert found[0].to_dict("records") == [{"id": "7", "label": 0.5}]
    assert found[0].attrs["order_id"] == infer_id


def test_statistics_are_a_frame_and_a_schedule_has_its_last_answer(
    coordinator: Coordinator, federation: Federation
) -> None:
    made = coordinator.call(
        "POST",
        "/runModelTrainTask",
        json=federation._answers.asked({**question(), "timeout_seconds": 1}),
    )
    order = federation.order(int(made.headers["X-Order-Id"]))
    content = {"rows": [{"total": 9007199254740993}], "notes": {"method": "sum"}}
    put_answer(coordinator, order.order_id, "statistics", content)
    coordinator.store.orders.end(order.order_id, "success")
    found = order.result(progress=False).frame()
    assert found["total"].tolist() == [9007199254740993]
    # Whose rows did not come here, a sentence says where they are.
    with (
        federation_of(coordinator, user=4) as plain,
        pytest.raises(NotFound, match="sealed=True") as caught,
    ):
        plain.order(order.order_id).result(progress=False).frame()
    assert caught.value.code == "no_answer"


def test_a_schedule_has_no_answer_before_its_first(federation: Federation) -> None:
    schedule = federation.schedule_statistics(question(), cron="0 6 * * *")
    assert schedule.info()["request"]["reader"] == federation._answers.reader.public
    with pytest.raises(NotFound) as caught:
        schedule.last_answer()
    assert caught.value.code == "no_answer"


def run(order_id: int | None, state: str, **fields: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("path", "type", "rows_used", "repeats", "sentence"))
    moment = f"2026-11-20T06:0{order_id or 9}:00Z"
    place = {"schedule_id": 3, "scheduled": moment, "started": moment}
    return {**empty, **place, "order_id": order_id, "state": state, **fields}


def scheduled(folder: Path, runs: list[Any], kind: str, content: Any) -> Federation:
    """A federation in which a schedule has these times, and each success this answer."""
    payload = json.dumps(content).encode()

    def answer(request: httpx.Request) -> httpx.Response:
        _, *parts = request.url.path.split("/")
        data: Any = {"runs": runs, "next": None}
        if parts[0] == "orders":
            at = {"order_id": int(parts[1]), "kind": kind}
            data = sealed(own_reader(folder), payload, **at).to_json()
        return httpx.Response(200, json={"code": 200, "data": data, "message": None})

    transport = httpx.MockTransport(answer)
    return Federation(
        "http://made.up", "token", user=4, transport=transport, key_folder=folder
    )


TOTAL = {"rows": [{"total": 12.5}], "notes": {"withheld": []}}
REFUSED = run(4, "refused", sentence="The reader is not listed.")
NOTES: dict[str, tuple[list[Any], Any, list[str]]] = {
    "nothing to say": ([], TOTAL, []),
    "refused since": (
        [REFUSED],
        TOTAL,
        ["no answer of the newest time", "06:04:00Z was refused: The reader is not"],
    ),
    "failed, and one under way": (
        [run(6, "running", sentence="It waits."), run(5, "failed", sentence="Cut.")],
        TOTAL,
        ["Times without one: 2. That of 2026-11-20T06:05:00Z failed: Cut."],
    ),
    "under way": ([run(6, "waiting", sentence="It waits.")], TOTAL, ["waits: It"]),
    "skipped": ([run(None, "skipped", sentence="One was away.")], TOTAL, ["skipped"]),
    "groups withheld": (
        [],
        {**TOTAL, "notes": {"withheld": [{"rule": "min_rows"}, {"rule": "min_rows"}]}},
        ["Groups are withheld: 2 (min_rows)."],
    ),
}


@pytest.mark.parametrize("name", list(NOTES))
def test_an_older_answer_says_what_became_of_the_newest_time(
    folder: Path, name: str
) -> None:
    since, content, words = NOTES[name]
    runs = [*since, run(3, "success"), run(2, "failed", sentence="Long ago.")]
    frame = scheduled(folder, runs, "statistics", content).schedule(3).last_answer()
    assert frame["total"].tolist() == [12.5]
    assert frame.attrs["order_id"] == 3
    note = frame.attrs.get("note", "")
    assert bool(note) == bool(words)
    for word in words:
        assert word in note
    assert "Long ago" not in note


def test_an_answer_that_repeats_an_earlier_one_says_so(folder: Path) -> None:
    runs = [run(3, "success", repeats=2)]
    schedule = scheduled(folder, runs, "statistics", TOTAL).schedule(3)
    assert "that of order 2 again" in schedule.last_answer().attrs["note"]


def test_no_answer_at_all_says_why(folder: Path) -> None:
    schedule = scheduled(folder, [REFUSED], "statistics", TOTAL).schedule(3)
    with pytest.raises(NotFound, match="was refused: The reader is not") as caught:
        schedule.last_answer()
    assert caught.value.code == "no_answer"


def test_a_schedule_of_models_answers_with_its_newest_report(folder: Path) -> None:
    runs = [REFUSED, run(3, "success")]
    federation = scheduled(folder, runs, "report", REPORT)
    frame = federation.model_schedule(3).last_answer()
    assert frame.loc["age", "high"] == 0.45
    assert "was refused" in frame.attrs["note"]
    judged = {"report": {"metrics": {"auc": 0.75, "n": 80}}}
    evaluated = scheduled(folder, runs[1:], "evaluation", judged).model_schedule(3)
    assert evaluated.last_answer()["auc"].tolist() == [0.75]


def test_an_answer_that_another_key_signed_is_not_the_hospital_s(
    coordinator: Coordinator, folder: Path
) -> None:
    """A coordinator knows every reader's public key, and can make up an answer."""
    pinned = AGENT.public.fingerprint
    with federation_of(
        coordinator, user=4, sealed=True, key_folder=folder, hospital=pinned
    ) as federation:
        made_up = federation.submit(GLM)
        own = Identity(b"c" * 32, b"c" * 32)
        put_answer(coordinator, made_up.order_id, "report", REPORT, identity=own)
        with pytest.raises(ProtocolViolation) as caught:
            made_up.report()
        assert caught.value.code == "pin_mismatch"
        real = federation.submit(GLM)
        put_answer(coordinator, real.order_id, "report", REPORT)
        assert len(real.report()) == 2


# What is opened, by hand


def test_an_answer_of_another_order_is_told(folder: Path) -> None:
    reader = own_reader(folder)
    for wrong in ({"order_id": 42}, {"kind": "evaluation"}):
        with pytest.raises(ProtocolViolation) as caught:
            reader.open(sealed(reader), **wrong)  # type: ignore[arg-type]
        assert caught.value.code == "another_order"


def test_what_was_opened_before_is_told(folder: Path) -> None:
    reader = own_reader(folder)
    first = sealed(reader)
    assert reader.open(first).note == ""
    assert "opened before" in reader.open(first).note
    assert "Another answer of the same order" in reader.open(sealed(reader)).note
    assert reader.open(sealed(reader, order_id=43)).note == ""
    # A damaged note hides no answer.
    for path in (folder / "opened").iterdir():
        path.write_text("{")
    assert reader.open(first).note == ""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_is_opened_into_a_new_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = sealed(own_reader(), b'{"report": 1}')
    around = {"code": 200, "data": record.to_json(), "message": None}
    Path("answer.json").write_text(json.dumps(around))
    assert main(["open", "answer.json", "--order", "41"]) == 0
    opened = Path("answer.opened.json")
    assert opened.read_bytes() == b'{"report": 1}'
    assert stat.S_IMODE(opened.stat().st_mode) == 0o600
    assert AGENT.public.fingerprint in capsys.readouterr().out
    # Never over a file, nor through a link to one.
    assert main(["open", "answer.json"]) == 2
    assert "is there already" in capsys.readouterr().err
    Path("link.json").symlink_to("elsewhere.json")
    assert main(["open", "answer.json", "--into", "link.json"]) == 2
    assert not Path("elsewhere.json").exists()
    capsys.readouterr()
    assert main(["open", "answer.json", "--into", "again.json"]) == 0
    assert "opened before" in capsys.readouterr().err


def test_what_does_not_open_is_one_line_and_no_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = own_reader()
    good = sealed(reader).to_json()
    other = Reader(b"o" * 32, here)
    cases = {
        "cut short": json.dumps(good)[:-40],
        "another reader": json.dumps(sealed(other).to_json()),
        "another order": json.dumps({**good, "order_id": 42}),
        "no answer": "[]",
    }
    for name, text in cases.items():
        Path("answer.json").write_text(text)
        assert main(["open", "answer.json"]) == 2, name
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert not Path("answer.opened.json").exists()
    Path("answer.json").write_text(json.dumps(good))
    assert main(["open", "answer.json", "--order", "42"]) == 2
    assert main(["open", "answer.json", "--hospital", reader.fingerprint]) == 2
    capsys.readouterr()
    for file, into, named in (
        ("missing.json", "new.json", "missing.json"),
        ("answer.json", "nowhere/new.json", "nowhere/new.json"),
        ("", "new.json", "."),
        ("/", None, "/"),
    ):
        options = ["--into", into] if into else []
        assert main(["open", file, *options]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"{named}: "), told
        assert told.count("\n") == 1


def test_an_answer_that_could_not_be_kept_was_not_opened(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the next try would warn of an answer that was opened before."""
    Path("answer.json").write_text(json.dumps(sealed(own_reader()).to_json()))
    Path("answer.opened.json").write_text("mine")
    assert main(["open", "answer.json"]) == 2
    assert main(["open", "answer.json", "--into", "nowhere/new.json"]) == 2
    capsys.readouterr()
    assert main(["open", "answer.json", "--into", "new.json"]) == 0
    assert capsys.readouterr().err == ""
    assert Path("answer.opened.json").read_text() == "mine"


def test_the_key_is_shown_with_what_the_hospital_types(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key"]) == 0
    reader = own_reader()
    out = capsys.readouterr().out
    assert reader.public in out
    assert f"readers add NAME {reader.fingerprint}" in out
    assert reader.private.hex() not in out


# By itself


def test_the_client_needs_nothing_of_the_rest_but_protocol(tmp_path: Path) -> None:
    """In a fresh process that opens an answer, from a folder in which nothing else is."""
    for name in ("protocol", "api/client"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    code = (
        "import sys, runpy; sys.argv = ['client', 'key']\n"
        "try: runpy.run_module('api.client', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "import api.client, api.client.answers, api.client.study_pictures\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "wrong = tops & {'agents', 'tasks', 'flows', 'deployments', 'prefect', 'fastapi', 'sqlalchemy'}\n"
        "wrong |= {n for n in sys.modules if n.startswith('api.') and not n.startswith('api.client')}\n"
        "assert not wrong, wrong\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
