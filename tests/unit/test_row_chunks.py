"""Tables of more rows than one chunk: on disk as in memory, with the numbers of one pass."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from agents.rows import row_groups, row_tables, unique_ids
from agents.rows.cohort import Cohort
from agents.rows.cohort_snapshot import load_cohort, save_cohort
from agents.rows.row_texts import Texts, packed_texts
from agents.training import agreed_design
from agents.training.moments import Scale, scaled
from analytics import arrays
from analytics.arrays import Floats
from analytics.training import gradients, newton, standardization
from analytics.training.design import Design, Number, Spline
from analytics.training.models import Model
from analytics.training.pairs import LOGISTIC
from protocol.errors import Conflict

N_ROWS = arrays.CHUNK_ROWS + 17
N_COLUMNS = 4


@pytest.fixture
def X() -> Floats:
    return np.random.default_rng(1).standard_normal((N_ROWS, N_COLUMNS))


@pytest.fixture
def y() -> Floats:
    return np.random.default_rng(2).integers(0, 2, N_ROWS).astype(np.float64)


def on_disk(X: Floats, folder: Path) -> Floats:
    table = row_tables.empty_table(folder, X.shape)
    assert isinstance(table, np.memmap)
    table[:] = X
    arrays.let_go(table)
    return table


def results(X: Floats, y: Floats) -> list[Floats]:
    mean = standardization.local_mean(X, y[:, None])
    variance = standardization.local_variance(X, mean, y[:, None])
    deviation = standardization.deviation(variance)[:N_COLUMNS]
    table = scaled(X, Scale(mean[:N_COLUMNS], deviation, mean[:N_COLUMNS]))
    model = Model("lr", N_COLUMNS)
    weights = np.linspace(-1, 1, model.n_weights)
    gradient = gradients.local_gradient(
        model, weights, table, y, batch_size=-1, learning_rate=0.5
    )
    loss = gradients.local_loss(model, weights, table, y)
    rows = newton.row_numbers(LOGISTIC, table, y, weights, is_start=False)
    of_newton = newton.local_sums(table, rows)
    return [mean, variance, np.asarray(table), gradient, np.array(loss), of_newton]


def test_a_table_on_disk_gives_the_bits_of_one_in_memory(
    X: Floats, y: Floats, tmp_path: Path
) -> None:
    for on, of in zip(results(on_disk(X, tmp_path), y), results(X, y), strict=True):
        assert on.tobytes() == of.tobytes()
    assert list(tmp_path.iterdir()) == []


def test_chunks_give_the_numbers_of_one_pass(
    X: Floats, y: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunked = results(X, y)
    monkeypatch.setattr(arrays, "CHUNK_ROWS", N_ROWS)
    for some, one in zip(chunked, results(X, y), strict=True):
        np.testing.assert_allclose(some, one, rtol=1e-9, atol=1e-12)


def test_rows_and_columns_of_a_table_on_disk(X: Floats, tmp_path: Path) -> None:
    table = on_disk(X, tmp_path)
    places = np.random.default_rng(3).permutation(N_ROWS)
    moved = row_tables.taken(table, places)
    assert isinstance(moved, np.memmap)
    assert moved.tobytes() == X[places].tobytes()
    assert row_tables.taken(table, np.arange(N_ROWS)) is table
    for place, column in enumerate(row_tables.columns(table)):
        assert column.tobytes() == X[:, place].tobytes()
    without = row_tables.without_column(table, 1)
    assert without.tobytes() == np.delete(X, 1, axis=1).tobytes()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_taken", [N_ROWS, 1000])
def test_rows_in_another_order_are_moved_by_blocks(
    X: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_taken: int
) -> None:
    """Each row looked up where it stands would have the whole table in memory."""
    monkeypatch.setattr(row_tables, "_BLOCK_BYTES", 100_000)
    table = on_disk(X, tmp_path)
    places = np.random.default_rng(4).integers(0, N_ROWS, n_taken)
    moved = row_tables.taken(table, places)
    assert moved.tobytes() == X[places].tobytes()
    assert list(tmp_path.iterdir()) == []


def test_many_ids_are_on_disk(tmp_path: Path) -> None:
    """Their block, and what is taken of it."""
    texts = [f"p{number}" for number in range(N_ROWS)]
    chunks = [texts[part] for part in arrays.row_chunks(N_ROWS)]
    peaks = []
    for folder in (None, tmp_path):
        tracemalloc.start()
        packed = packed_texts(chunks, folder=folder)
        peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        places = np.random.default_rng(5).permutation(N_ROWS)
        moved = packed.taken(places)
        assert isinstance(moved.letters, np.memmap) == (folder is not None)
        assert list(moved) == [texts[place] for place in places]
        assert packed.taken(np.arange(N_ROWS)) is packed
        assert list(packed) == texts
    assert peaks[0] > 10 * N_ROWS
    assert peaks[1] < N_ROWS
    assert list(tmp_path.iterdir()) == []


def test_groups_of_rows_are_numbered_as_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = pd.DataFrame(
        {"g0": ["b", None, "a", "b", None, "c"], "g1": ["1", "1", None, "1", "1", None]}
    )
    codes = row_groups._codes_of(frame)
    assert codes.tolist() == [0, 1, 2, 0, 1, 3]
    rows = SimpleNamespace(
        n_rows=9, frames=lambda sql: [frame[:2], frame[1:5], frame[3:]]
    )
    monkeypatch.setattr(row_groups, "label_sql", lambda dataset, name: name)
    grouped = row_groups.grouped_rows(rows, ["g0", "g1"])  # type: ignore[arg-type]
    assert grouped.labels == [("b", "1"), (None, "1"), ("a", None), ("c", None)]
    assert grouped.codes.tolist() == [0, 1, 1, 2, 0, 1, 0, 1, 3]


def test_texts_in_one_block_are_those_of_a_list() -> None:
    texts = ["7", "", "Ä", "名前", "x" * 300, "7b"] * 3
    packed = packed_texts([texts[:4], texts[4:]])
    assert list(packed) == texts
    assert [packed[2], packed[-1], packed[1:3]] == ["Ä", "7b", ["", "Ä"]]
    assert len(packed) == len(texts)
    places = np.array([5, 0, 3, 3, 1])
    assert list(packed.taken(places)) == [texts[place] for place in places]


@pytest.mark.parametrize(
    "ids",
    [
        ["10", "9", "-3", "0"],
        ["b", "名", "Ä", "10", "9"],
        ["01", "1", "0"],
        ["9" * 20, "1" * 21, "2"],
        ["x" * 80, "w"],
    ],
)
def test_many_ids_are_ordered_as_few(ids: list[str]) -> None:
    order, n_doubled = unique_ids._order(packed_texts([ids]))
    assert order.tolist() == unique_ids.id_order(ids)
    assert n_doubled == 0
    _, n_doubled = unique_ids._order(packed_texts([[*ids, ids[0]]]))
    assert n_doubled == 1


def snapshot(X: Floats, y: Floats) -> Cohort:
    sexes = np.array(["f", "m"], dtype=object)[y.astype(int)]
    ids = [f"p{number:07}" for number in range(N_ROWS)]
    return Cohort(ids, ("a", "b", "c", "d"), X, y, [0, 1], groups=sexes)


def test_a_large_snapshot_gives_every_row_back(
    X: Floats, y: Floats, tmp_path: Path
) -> None:
    cohort = snapshot(X, y)
    save_cohort(tmp_path / "train.npz", cohort)
    again = load_cohort(tmp_path / "train.npz")
    assert isinstance(again.X, np.memmap)
    assert isinstance(again.unique_ids, Texts)
    assert again.X.tobytes() == X.tobytes()
    assert again.y is not None
    assert again.y.tobytes() == y.tobytes()
    assert list(again.unique_ids) == cohort.unique_ids
    assert again.groups is not None
    assert cohort.groups is not None
    assert again.groups.tolist() == cohort.groups.tolist()
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("file", ["train.X", "train.edges"])
def test_a_large_snapshot_with_a_turned_bit_is_never_used(
    X: Floats, y: Floats, tmp_path: Path, file: str
) -> None:
    save_cohort(tmp_path / "train.npz", snapshot(X, y))
    stored = bytearray((tmp_path / file).read_bytes())
    stored[1000] ^= 1
    (tmp_path / file).write_bytes(stored)
    with pytest.raises(Conflict):
        load_cohort(tmp_path / "train.npz")
    (tmp_path / file).unlink()
    with pytest.raises(Conflict):
        load_cohort(tmp_path / "train.npz")


def test_a_snapshot_without_its_small_file_is_written_again(
    X: Floats, y: Floats, tmp_path: Path
) -> None:
    """As after a crash between the tables and the file that names them."""
    save_cohort(tmp_path / "train.npz", snapshot(X, y))
    (tmp_path / "train.npz").unlink()
    save_cohort(tmp_path / "train.npz", snapshot(-X, y))
    assert load_cohort(tmp_path / "train.npz").X.tobytes() == (-X).tobytes()


@pytest.mark.thorough
def test_two_million_rows_are_trained_on_in_half_a_gigabyte(tmp_path: Path) -> None:
    """Their table has 496 MB, and every step would have copied it."""
    megabytes = {}
    for step in ("make", "reading", "gradient", "newton"):
        command = [sys.executable, "-m", "benchmarks.rows", "--step", step]
        found = subprocess.run(
            [*command, str(tmp_path), "2000000"],
            check=True,
            capture_output=True,
            text=True,
        )
        *_, megabytes[step] = [
            float(one) for one in found.stdout.strip("[]\n").split(",")
        ]
    assert megabytes["reading"] < 800, megabytes
    assert megabytes["gradient"] < 500, megabytes
    assert megabytes["newton"] < 500, megabytes


def test_what_was_copied_from_disk_is_not_taken_for_on_disk(
    X: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would go to a file in whatever folder is the current one."""
    folder = tmp_path / "private"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    table = on_disk(X, folder)
    assert row_tables.folder_of(table) == folder
    assert row_tables.folder_of(table.copy()) is None
    assert not isinstance(row_tables.empty_beside(table.copy()), np.memmap)


def test_columns_that_are_made_stay_where_the_rows_are(
    X: Floats, tmp_path: Path
) -> None:
    term = Spline("a", (-1.0, 0.0, 1.0))
    design = Design((term, Number("b")), {"b": 0.5})
    gaps = X.copy()
    gaps[::7, 1] = np.nan
    of_memory = Cohort([], ("a", "b", "c", "d"), gaps, None)
    of_disk = replace(of_memory, X=on_disk(gaps, tmp_path))
    made = agreed_design._designed(of_disk, design)
    assert isinstance(made.X, np.memmap)
    expected = agreed_design._designed(of_memory, design).X
    np.testing.assert_allclose(made.X, expected, rtol=1e-12, atol=1e-15)
    assert list(tmp_path.iterdir()) == []
