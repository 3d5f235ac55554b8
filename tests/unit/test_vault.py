"""The vault: private, whole after a crash, and what is made once is made by one process
only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.site import vault as vault_module
from agents.site.vault import OrderVault, Vault, encode_kept, read_kept
from protocol.errors import Conflict, NotFound, Refused
from protocol.machine import disk
from protocol.machine.disk import locked, make_private_folder, write_durably, write_once


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "state" / "vault")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_everything_new_is_for_the_owner_alone(vault: Vault, tmp_path: Path) -> None:
    vault.identity()
    vault.save_model(1, {"a": 1})
    order = vault.order(7)
    order.once("ephemeral", lambda: b"k")
    folders = [
        vault.folder.parent,
        vault.folder,
        vault.folder / "models",
        order.folder.parent,
        order.folder,
    ]
    assert [mode(folder) for folder in [*folders, order.outbox, vault.cohorts]] == [
        0o700
    ] * 7
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert {mode(path) for path in files} == {0o600}


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert make_private_folder(tmp_path) == tmp_path
    assert mode(tmp_path) == 0o755


def test_the_identity_is_made_once(vault: Vault) -> None:
    first = vault.identity()
    assert vault.identity() == first
    assert Vault(vault.folder).identity() == first


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"sign_key": "ab"}', '{"sign_key": "ab", "open_key": 5}'],
)
def test_a_damaged_identity_is_not_replaced(vault: Vault, text: str) -> None:
    path = vault.folder / "identity.json"
    path.write_text(text)
    with pytest.raises(Conflict, match="backup") as caught:
        vault.identity()
    assert caught.value.code == "vault_damaged"
    assert path.read_text() == text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(vault: Vault) -> None:
    path = vault.folder / "kept"
    write_durably(path, b"old")
    with pytest.raises(TypeError):
        write_durably(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(vault.folder) == ["kept"]


def test_once_makes_once(vault: Vault) -> None:
    order = vault.order(1)
    assert order.once("outbox/gradient-0-0-0-1", lambda: b"first") == b"first"
    assert (
        order.once("outbox/gradient-0-0-0-1", lambda: pytest.fail("made anew"))
        == b"first"
    )
    assert order.has("outbox/gradient-0-0-0-1")
    assert not order.has("outbox/gradient-0-1-0-1")


def test_once_is_not_made_when_making_fails(vault: Vault) -> None:
    order = vault.order(1)
    with pytest.raises(ZeroDivisionError):
        order.once("key", lambda: bytes([1 // 0]))
    assert order.once("key", lambda: b"second") == b"second"


def test_the_second_of_two_that_made_the_same_gets_what_the_first_kept(
    vault: Vault,
) -> None:
    """A flow process that outlives its agent stands beside its successor; both must
    send the same bytes.
    """
    order = vault.order(1)

    def slow() -> bytes:
        assert (
            OrderVault(order.folder).once("contribution", lambda: b"first") == b"first"
        )
        return b"second"

    assert order.once("contribution", slow) == b"first"


def _race(folder: Path, start: Any, found: Any) -> None:
    vault = Vault(folder)
    start.wait()
    found.put(
        (
            vault.identity().to_json()["sign_key"],
            vault.order(1).once("key", lambda: os.urandom(32)),
        )
    )


def test_two_processes_share_one_identity_and_one_secret(vault: Vault) -> None:
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_race, args=(vault.folder, start, found))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    results = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(results) == 1


def test_write_once_keeps_what_is_there(tmp_path: Path) -> None:
    write_once(tmp_path / "a", b"1")
    write_once(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_of_two_ends_at_one_moment_the_first_stands(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its flow process says how an order ended, and so does the agent that heard of it;
    a third reads the mark.
    """
    vault.order(1).once("document", lambda: b"{}")
    both, met, write = threading.Barrier(2), threading.Event(), disk.write_durably

    def meet_before_the_mark(path: Path, data: bytes) -> None:
        if path.parent.name == "ended":
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(2)
                met.set()
        write(path, data)

    monkeypatch.setattr(vault_module, "write_durably", meet_before_the_mark)
    threads = [
        threading.Thread(target=vault.end_order, args=(1, outcome))
        for outcome in ("failed", "cancelled")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not met.is_set(), "both were about to write the mark"


def test_the_first_predictions_stay(vault: Vault) -> None:
    """Two requests for one order at one moment tell the same, though a row has changed
    between their readings.
    """
    assert vault.save_predictions(7, {"result": [1]}) == {"result": [1]}
    assert vault.save_predictions(7, {"result": [2]}) == {"result": [1]}
    assert vault.predictions(7) == {"result": [1]}


def test_models_come_back_at_full_precision(vault: Vault) -> None:
    model = {
        "layers": {"dense": [0.1, 1 / 3, -5e-324, 1.7976931348623157e308]},
        "label_name": "诊断",
    }
    vault.save_model(12, model)
    vault.save_model(3, {})
    (vault.folder / "models" / "5.bak.json").write_text("{}")
    assert vault.models() == [3, 12]
    assert vault.model(12) == model


def test_no_models_yet(vault: Vault) -> None:
    assert vault.models() == []
    assert vault.predictions(4) is None
    with pytest.raises(NotFound, match="no model 4"):
        vault.model(4)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_model_is_not_no_model(vault: Vault, text: str) -> None:
    vault.save_model(1, {})
    (vault.folder / "models" / "1.json").write_text(text)
    with pytest.raises(Conflict, match="backup"):
        vault.model(1)


def test_arrays_come_back_bit_for_bit(vault: Vault) -> None:
    order, weights = vault.order(1), np.array([0.1, -0.0, 1e-320])
    assert order.load_arrays("checkpoint-0.npz") is None
    order.save_arrays("checkpoint-0.npz", weights=weights, round=np.array([3]))
    found = order.load_arrays("checkpoint-0.npz")
    assert found is not None
    assert found["weights"].tobytes() == weights.tobytes()
    assert found["round"].tolist() == [3]


def test_an_ended_order_leaves_nothing(vault: Vault) -> None:
    order, other = vault.order(1), vault.order(2)
    order.once("outbox/a", lambda: b"a")
    other.once("ephemeral", lambda: b"b")
    order.destroy()
    order.destroy()
    assert os.listdir(vault.folder / "orders") == ["2"]
    assert other.once("ephemeral", lambda: b"c") == b"b"


def test_what_a_crash_left_of_an_ended_order_goes_with_the_next(vault: Vault) -> None:
    order = vault.order(1)
    order.once("ephemeral", lambda: b"a")
    order.folder.rename(order.folder.with_name(".1.0badcafe.ended"))
    vault.order(2).destroy()
    assert os.listdir(vault.folder / "orders") == []


# Whole, or noticed


LAYERS = {"dense": [0.1, 1 / 3, -5e-324, 0.0, -0.0, 1e22], "bias": [1.5e-05]}
MODEL = {
    "model_id": 12,
    "model_type": "lr",
    "attributes": ["x1", "年龄"],
    "fit_intercept": True,
    "layers": LAYERS,
}


def every_flip(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        at, shift = divmod(bit, 8)
        yield data[:at] + bytes([data[at] ^ 1 << shift]) + data[at + 1 :]


def found_or_refused(read: Callable[[], Any]) -> Any:
    """What is read, or None for a refusal that says what to do."""
    try:
        return read()
    except Conflict as error:
        if error.code != "vault_damaged" or "backup" not in error.remedy:
            raise
        return None


def test_no_bit_of_the_identity_can_turn_and_make_other_keys(vault: Vault) -> None:
    kept, path = vault.identity(), vault.folder / "identity.json"
    for altered in every_flip(path.read_bytes()):
        path.write_bytes(altered)
        assert found_or_refused(vault.identity) in (None, kept)


def test_no_bit_of_a_model_can_turn_unnoticed(vault: Vault) -> None:
    vault.save_model(12, MODEL)
    path = vault.folder / "models" / "12.json"
    refused = 0
    for altered in every_flip(path.read_bytes()):
        path.write_bytes(altered)
        found = found_or_refused(lambda: vault.model(12))
        assert found in (None, MODEL)
        refused += found is None
    assert (
        refused > 7 * path.stat().st_size
    )  # what is left is a blank, or an e that became an E


def test_a_file_cut_short_anywhere_is_refused(vault: Vault) -> None:
    vault.save_model(12, MODEL)
    vault.end_order(7, "success")
    kinds = {
        vault.folder / "models" / "12.json": lambda: vault.model(12),
        vault.folder / "ended" / "7.json": lambda: vault.outcome(7, b""),
    }
    for path, read in kinds.items():
        whole = path.read_bytes()
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            assert found_or_refused(read) is None


EARLIER = {
    "identity.json": {"sign_key": "0a" * 32, "open_key": "0b" * 32},
    "models/12.json": MODEL,
    "predictions/5.json": {"model_id": 12, "result": [{"id": "1", "label": 0.5}]},
    "ended/7.json": {
        "outcome": "failed",
        "document": hashlib.sha256(b"order").hexdigest(),
    },
}


def test_what_an_earlier_version_kept_is_read_and_gets_its_checksum(
    vault: Vault,
) -> None:
    for name, value in EARLIER.items():
        path = vault.folder / name
        make_private_folder(path.parent)
        path.write_text(json.dumps(value))
    for _ in range(2):
        assert vault.identity().to_json() == EARLIER["identity.json"]
        assert vault.model(12) == MODEL
        assert vault.predictions(5) == EARLIER["predictions/5.json"]
        assert vault.outcome(7, b"order") == "failed"
        for name, value in EARLIER.items():
            kept = json.loads((vault.folder / name).read_text())
            assert kept["content"] == value
            assert len(kept["sha256"]) == 64
            assert mode(vault.folder / name) == 0o600


def test_what_an_earlier_version_kept_is_read_on_a_disk_that_takes_nothing(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vault.folder / "identity.json"
    path.write_text(json.dumps(EARLIER["identity.json"]))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert vault.identity().to_json() == EARLIER["identity.json"]
    assert os.listdir(vault.folder) == ["identity.json"]


def test_within_a_lock_an_earlier_file_is_read_without_waiting_for_it(
    vault: Vault,
) -> None:
    path = vault.folder / "identity.json"
    path.write_text(json.dumps(EARLIER["identity.json"]))
    with locked(vault.folder):
        assert vault.identity().to_json() == EARLIER["identity.json"]
    assert "sha256" not in path.read_text()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"outcome": "failed"}', "\xff"])
def test_a_damaged_mark_does_not_let_its_order_in_again(
    vault: Vault, text: str
) -> None:
    vault.end_order(7, "failed")
    (vault.folder / "ended" / "7.json").write_bytes(text.encode("latin-1"))
    assert vault.has_ended(7)
    with pytest.raises(Conflict) as caught:
        vault.outcome(7, b"")
    assert caught.value.code == "vault_damaged"


def test_a_checkpoint_that_is_damaged_anywhere_is_refused(vault: Vault) -> None:
    order = vault.order(1)
    order.save_arrays("checkpoint-0.npz", weights=np.arange(3.0))
    path = order.folder / "checkpoint-0.npz"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert found_or_refused(lambda: order.load_arrays("checkpoint-0.npz")) is None
    for altered in every_flip(whole):
        path.write_bytes(altered)
        assert found_or_refused(lambda: order.load_arrays("checkpoint-0.npz")) is None


def test_what_is_kept_once_is_what_was_kept(vault: Vault) -> None:
    order = vault.order(1)
    order.once("document", lambda: b"order")
    path = order.folder / "document"
    whole = path.read_bytes()
    for damaged in [b"", whole[:-1], *every_flip(whole)]:
        path.write_bytes(damaged)
        assert (
            found_or_refused(
                lambda: order.once("document", lambda: pytest.fail("made anew"))
            )
            is None
        )
        assert found_or_refused(lambda: order.kept("document")) is None


def test_an_order_can_be_ended_whatever_became_of_its_document(vault: Vault) -> None:
    order = vault.order(1)
    order.once("document", lambda: b"order")
    (order.folder / "document").write_bytes(b"")
    vault.end_order(1, "failed")
    with pytest.raises(Refused) as caught:
        vault.outcome(1, b"order")
    assert caught.value.code == "order_number"


def test_keys_that_are_no_texts_are_kept_as_json_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    value = {"of": {10: (1.5, 2), 9: {True: None, None: [{3: "x"}]}}, "a": [0.1]}
    path.write_bytes(encode_kept(value))
    assert read_kept(path, dict) == json.loads(json.dumps(value))


@pytest.mark.thorough
def test_a_large_model_is_kept_in_little_memory() -> None:
    weights = np.random.default_rng(1).standard_normal(300_000).tolist()
    tracemalloc.start()
    try:
        kept = encode_kept({"layers": {"one": weights}})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(kept)
