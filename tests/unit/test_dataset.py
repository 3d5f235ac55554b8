"""What a provider's data may be, and what is never opened: every kind of path, file and
bad content.
"""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from agents.rows import files as data_files
from agents.rows.dataset import Dataset
from agents.rows.reading import open_dataset
from agents.rows.relation import quoted
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, ConsiliumError, Refused, TooLarge, Unavailable
from protocol.policy import CohortRules, OrderRules, Policy, StatisticsRules, TableRules

OWN, OTHER = 2, 4
SECRET = "4711"  # stands in every bad file, and in no error


@pytest.fixture
def settings(tmp_path: Path) -> SiteSettings:
    state = tmp_path / "state"
    (state / "data" / "visits").mkdir(parents=True)
    return SiteSettings(
        site=tmp_path,
        user_id=OWN,
        name="here",
        coordinator_url="",
        data_url=f"duckdb:///{state}/hospital.duckdb",
        state=state,
    )


def policy(
    *,
    files: tuple[str, ...] = ("*",),
    columns: tuple[str, ...] = ("id", "x"),
    max_rows: int = 1000,
) -> Policy:
    return Policy(
        orders=OrderRules(
            initiators=(OWN, OTHER), methods=("Mask",), model_types=("lr",), sign=True
        ),
        cohort=CohortRules(max_rows=max_rows),
        tables={
            "data.visits": TableRules(
                columns=columns, filter_columns=("s",), unique_id="pid"
            )
        },
        statistics=StatisticsRules(methods=("sum",), files=files),
    )


def write(settings: SiteSettings, name: str, content: str | bytes) -> str:
    path = settings.data_folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def rows_of(
    settings: SiteSettings, path: str, kind: str = "csv", **options: object
) -> list[tuple[object, ...]]:
    options = {"requester": OWN, "policy": policy(), **options}
    chosen = options.pop("policy")
    with open_dataset(
        settings, chosen, data_path=path, data_type=kind, **options
    ) as dataset:  # type: ignore[arg-type]
        return dataset.query("SELECT * FROM rows")


def refusal(
    settings: SiteSettings, path: str, kind: str = "csv", **options: object
) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as caught:
        rows_of(settings, path, kind, **options)
    error = caught.value
    assert SECRET not in str(error)
    assert SECRET not in str(error.detail)
    assert error.remedy
    assert error.__cause__ is None
    return error


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside.csv"
    path.write_text(f"x\n{SECRET}\n")
    return path


@pytest.mark.parametrize(
    "path",
    [
        "../outside.csv",
        "visits/../../outside.csv",
        "visits/../a.csv",
        "..",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/proc/self/fd/0",
        "s3://bucket/a.csv",
        "http://127.0.0.1/a.csv",
        "file:///etc/passwd",
        "",
        "   ",
        "a\x00.csv",
        "a\n.csv",
        "a\u200b.csv",
        "a\u202ecsv.b",
        "a\u00a0.csv",
        "a\ufeff.csv",
        "\ud800.csv",
        "x" * 2000,
    ],
)
def test_paths_that_lead_elsewhere_are_refused(
    settings: SiteSettings, outside: Path, path: str
) -> None:
    assert refusal(settings, path).code == "data_path"


def test_an_absolute_path_outside_is_refused_and_inside_is_fine(
    settings: SiteSettings, outside: Path
) -> None:
    assert refusal(settings, str(outside)).code == "data_path"
    name = write(settings, "visits/a.csv", "x\n1\n")
    assert rows_of(settings, str(settings.data_folder / name)) == [("1",)]
    assert (
        rows_of(settings, f"./{name}") == rows_of(settings, "visits//a.csv") == [("1",)]
    )
    beside = settings.state / "data-of-others.csv"
    beside.write_text("x\n1\n")
    assert refusal(settings, str(beside)).code == "data_path"


def test_links_out_are_refused_and_links_within_are_followed(
    settings: SiteSettings, outside: Path
) -> None:
    write(settings, "a.csv", "x\n1\n")
    (settings.data_folder / "out.csv").symlink_to(outside)
    (settings.data_folder / "folder").symlink_to(outside.parent)
    (settings.data_folder / "within.csv").symlink_to("a.csv")
    (settings.data_folder / "loop.csv").symlink_to("loop.csv")
    assert refusal(settings, "out.csv").code == "data_path"
    assert refusal(settings, "folder/outside.csv").code == "data_path"
    assert refusal(settings, "loop.csv").code in ("data_path", "missing_file")
    assert rows_of(settings, "within.csv") == [("1",)]


def test_a_data_folder_that_is_a_link_itself(
    settings: SiteSettings, tmp_path: Path
) -> None:
    write(settings, "a.csv", "x\n1\n")
    settings.data_folder.rename(tmp_path / "elsewhere")
    settings.data_folder.symlink_to(tmp_path / "elsewhere")
    assert (
        rows_of(settings, "a.csv")
        == rows_of(settings, str(tmp_path / "elsewhere" / "a.csv"))
        == [("1",)]
    )


def test_what_is_no_regular_file_is_refused_at_once(settings: SiteSettings) -> None:
    os.mkfifo(settings.data_folder / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(settings.data_folder / "s.csv"))
        for path in ("pipe.csv", "visits", ".", "s.csv"):
            assert refusal(settings, path).code == "data_path", path


def test_signs_of_patterns_are_plain_letters(settings: SiteSettings) -> None:
    write(settings, "a.csv", f"x\n{SECRET}\n")
    for path in ("*.csv", "?.csv", "[a].csv", "{a,b}.csv", "**"):
        assert refusal(settings, path).code == "missing_file"
    write(settings, "[a]*.csv", "x\n1\n")
    assert rows_of(settings, "[a]*.csv") == [("1",)]
    assert rows_of(settings, write(settings, "it's;--.csv", "x\n2\n")) == [("2",)]


def test_a_file_swapped_for_a_link_after_the_check(
    settings: SiteSettings, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.data_folder / write(settings, "a.csv", "x\n1\n")
    walk = data_files._walk

    def swap(root: Path, parts: tuple[str, ...]) -> int:
        path.unlink()
        path.symlink_to(outside)
        return walk(root, parts)

    monkeypatch.setattr(data_files, "_walk", swap)
    assert refusal(settings, "a.csv").code == "data_path"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_swapped_after_it_was_opened(
    settings: SiteSettings, outside: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = settings.data_folder / write(settings, "a.csv", "x\n1\n")
    if kind == "parquet":
        duckdb.sql("SELECT '1' AS x").write_parquet(str(path))
    walk = data_files._walk

    def swap(root: Path, parts: tuple[str, ...]) -> int:
        descriptor = walk(root, parts)
        path.unlink()
        path.symlink_to(outside)
        return descriptor

    monkeypatch.setattr(data_files, "_walk", swap)
    found: list[tuple[object, ...]] = []
    with suppress(BadRequest):
        found = rows_of(settings, "a.csv", kind)
    assert found in ([], [("1",)])


def test_a_file_that_changes_while_it_is_used(settings: SiteSettings) -> None:
    path = settings.data_folder / "a.parquet"
    duckdb.sql("SELECT range AS x FROM range(10)").write_parquet(str(path))
    options = {"data_path": "a.parquet", "data_type": "parquet", "requester": OWN}
    with open_dataset(settings, policy(), **options) as dataset:  # type: ignore[arg-type]
        os.utime(path, (1, 1))
        with pytest.raises(BadRequest) as caught:
            dataset.query("SELECT sum(x) FROM rows")
    assert caught.value.code == "changed"


def test_policy_decides_which_files(settings: SiteSettings) -> None:
    write(settings, "visits/a.csv", "x\n1\n")
    write(settings, "b.csv", "x\n1\n")
    (settings.data_folder / "visits" / "link.csv").symlink_to("../b.csv")
    for files, path, is_open in (
        (("visits/*",), "visits/a.csv", True),
        (("visits/*",), "b.csv", False),
        (("visits/*",), "visits/link.csv", False),
        (("visits/*",), "visits/none.csv", None),
        ((), "b.csv", False),
        (("B.csv",), "b.csv", False),
    ):
        if is_open:
            assert rows_of(settings, path, policy=policy(files=files)) == [("1",)]
        else:
            code = "missing_file" if is_open is None else "files"
            assert refusal(settings, path, policy=policy(files=files)).code == code


def test_no_section_no_statistics(settings: SiteSettings) -> None:
    closed = policy().model_copy(update={"statistics": None})
    assert refusal(settings, "a.csv", policy=closed).code == "statistics"


def test_the_connection_opens_nothing_else(
    settings: SiteSettings, outside: Path
) -> None:
    write(settings, "b.csv", "x\n1\n")
    options = {
        "data_path": write(settings, "a.csv", "x\n1\n"),
        "data_type": "csv",
        "requester": OWN,
    }
    with open_dataset(settings, policy(), **options) as dataset:  # type: ignore[arg-type]
        for sql in (
            f"SELECT * FROM read_csv('{outside}')",
            f"SELECT * FROM read_text('{settings.data_folder / 'b.csv'}')",
            f"SELECT * FROM '{outside}'",
            "SELECT * FROM glob('/tmp/*')",
            f"COPY rows TO '{settings.data_folder / 'c.csv'}'",
            f"ATTACH '{settings.state / 'new.duckdb'}'",
            "SET enable_external_access = true",
            "SET threads = 1",
            "INSTALL httpfs",
        ):
            with pytest.raises(ConsiliumError) as caught:
                dataset.query(sql)
            assert SECRET not in str(caught.value)


def test_what_is_spilled_is_private_and_goes(settings: SiteSettings) -> None:
    left = settings.state / "spill" / "999999999-left"
    left.mkdir(parents=True)
    options = {
        "data_path": write(settings, "a.csv", "x\n1\n"),
        "data_type": "csv",
        "requester": OWN,
    }
    with open_dataset(settings, policy(), **options):  # type: ignore[arg-type]
        (folder,) = (settings.state / "spill").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list((settings.state / "spill").iterdir()) == []


# --- csv -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_quotes_and_digits(settings: SiteSettings, delimiter: str) -> None:
    text = 'id,x,note\n1,0.10,"a,b"\n2,,"say ""no"""\n3,1e-3,"two\nlines"\n'.replace(
        ",", delimiter
    )
    write(
        settings, "a.csv", "\ufeff" + text.replace(f"a{delimiter}b", f"a{delimiter}b")
    )
    assert rows_of(settings, "a.csv", columns=["x", "note"]) == [
        ("0.10", f"a{delimiter}b"),
        (None, 'say "no"'),
        ("1e-3", "two\nlines"),
    ]


def test_windows_lines_blank_names_and_other_alphabets(settings: SiteSettings) -> None:
    write(settings, "a.csv", "id , 费用 \r\n1,2.50\r\n2,3\r\n")
    assert rows_of(settings, "a.csv", columns=["费用"]) == [("2.50",), ("3",)]
    write(settings, "b.csv", 'a;"x, y"\n1;"1,5"\n')
    assert rows_of(settings, "b.csv") == [("1", "1,5")]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"id,x\n", "no_rows"),
        (f"1,{SECRET}\n2,5\n", "no_header"),
        (f"id:x\n1:{SECRET}\n", "delimiter"),
        (f"id,y\n1,{SECRET}\n", "missing_column"),
        (f"id,X\n1,{SECRET}\n", "missing_column"),
        (f"x,x\n1,{SECRET}\n", "duplicate_column"),
        (f"id,x\n1,{SECRET}\n2\n", "csv"),
        (f"id,x\n1,{SECRET}\n2,1,5\n", "csv"),
        (f'id,x\n1,"{SECRET}\n2,3\n', "csv"),
        (f'id,x\n1,"{SECRET}"0"\n2,3\n', "csv"),
        (f"id,x\n{SECRET},中\n".encode("gbk"), "encoding"),
        (f"id,x\n{SECRET},1\n".encode("utf-16"), "encoding"),
        (f"身份,x\n{SECRET},1\n".encode("gbk"), "encoding"),
        (b"\x1f\x8b\x08\x00" + b"\x00" * 20, "encoding"),
    ],
)
def test_bad_csv_says_what_to_change(
    settings: SiteSettings, content: str | bytes, code: str
) -> None:
    write(settings, "a.csv", content)
    error = refusal(settings, "a.csv", columns=["x"])
    assert isinstance(error, BadRequest)
    assert error.code == code


def test_a_missing_column_lists_those_that_there_are(settings: SiteSettings) -> None:
    write(settings, "a.csv", "id,cost,ward\n1,2,3\n")
    assert "id, cost, ward" in refusal(settings, "a.csv", columns=["price"]).sentence
    assert (
        "Line 3"
        in refusal(settings, write(settings, "b.csv", "a,b\n1,2\n3\n")).sentence
    )


def test_a_missing_file(settings: SiteSettings) -> None:
    for path in ("none.csv", "visits/none/a.csv", "a.csv/b.csv"):
        write(settings, "a.csv", "x\n1\n")
        assert refusal(settings, path).code == "missing_file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights(settings: SiteSettings) -> None:
    (settings.data_folder / write(settings, "a.csv", "x\n1\n")).chmod(0)
    assert refusal(settings, "a.csv").code == "data_path"


# --- json lines and parquet ------------------------------------------------------------------------------------------


def test_json_numbers_keep_their_digits(settings: SiteSettings) -> None:
    lines = [
        '{"x": 0.1000000000000000000000000000000000001}',
        "",
        '{"x": 1E400, "z": {"a": [1]}}',
        '{"y": true}',
    ]
    write(settings, "a.json", "\n".join(lines))
    found = rows_of(settings, "a.json", "json", columns=["x", "y"])
    assert found == [
        ("0.1000000000000000000000000000000000001", None),
        ("1E400", None),
        (None, "1"),
    ]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("", "empty_file"),
        ("\n \n", "empty_file"),
        (f'[{{"x": {SECRET}}}]', "json"),
        (f'{{"x": {SECRET}', "json"),
        (f'{{"x": 1, "x": {SECRET}}}', "json"),
        (f'{{"x": [{SECRET}]}}', "column_type"),
        (f"x\n{SECRET}\n", "json"),
        (f'{{"y": {SECRET}}}', "missing_column"),
        ("[" * 100_000, "json"),
        ('{"x": "中"}'.encode("gbk"), "encoding"),
    ],
)
def test_bad_json_says_what_to_change(
    settings: SiteSettings, content: str | bytes, code: str
) -> None:
    write(settings, "a.json", content)
    assert refusal(settings, "a.json", "json", columns=["x"]).code == code


def test_bad_json_says_what_is_wrong_with_which_line(settings: SiteSettings) -> None:
    good = f'{{"x": {SECRET}}}\n'
    for content, problem in (
        (f'[{{"x": {SECRET}}}]\n', "Line 1 .* array"),
        (f'{good}{{\n"x": {SECRET}\n}}\n', "Line 2 .* goes on in the next line"),
        (f'{good}{{"x": {SECRET}}},\n', r"Line 2 .* follows the object \(column 12\)"),
        (f"{good}{{'x': {SECRET}}}\n", r"Line 2 .* in double quotes \(column 2\)"),
        (f'{{"x": 1, "x": {SECRET}}}\n', "Line 1 .* named twice"),
        (f'{good}{{"x": "{SECRET}\\ud800"}}\n', "Line 2 .* half a character"),
        (f'{{"x\u200b": {SECRET}}}\n', r"column 1 \(U\+200B ZERO WIDTH SPACE\)"),
        (b"PAR1" + SECRET.encode(), "is a parquet file"),
        (good.encode("utf-16"), "UTF-16"),
    ):
        write(settings, "a.json", content)
        error = refusal(settings, "a.json", "json", columns=["x"])
        assert re.search(problem, error.sentence), error.sentence


def test_a_parquet_file_of_which_the_end_is_missing(settings: SiteSettings) -> None:
    path = settings.data_folder / "a.parquet"
    duckdb.sql("SELECT range AS x FROM range(10)").write_parquet(str(path))
    path.write_bytes(path.read_bytes()[:-9])
    error = refusal(settings, "a.parquet", "parquet")
    assert (error.code, "not whole" in error.sentence) == ("parquet", True)


def test_parquet_has_its_types(settings: SiteSettings) -> None:
    sql = "SELECT 1::DECIMAL(9, 2) AS d, 2::BIGINT AS i, 0.5::FLOAT AS f, true AS b,"
    duckdb.sql(sql + " DATE '2024-05-06' AS t, 'a'::BLOB AS s").write_parquet(
        str(settings.data_folder / "a.parquet")
    )
    options = {"data_path": "a.parquet", "data_type": "parquet", "requester": OWN}
    with open_dataset(settings, policy(), **options) as dataset:  # type: ignore[arg-type]
        kinds = ["DECIMAL(9,2)", "BIGINT", "FLOAT", "BOOLEAN", "VARCHAR", "VARCHAR"]
        assert list(dataset.columns.values()) == kinds
        assert dataset.query("SELECT t, s FROM rows") == [("2024-05-06", "a")]


@pytest.mark.parametrize(
    "content", [b"", b"PAR1" + SECRET.encode(), SECRET.encode() * 100, b"PAR1" * 10]
)
def test_unreadable_parquet(settings: SiteSettings, content: bytes) -> None:
    write(settings, "a.parquet", content)
    assert refusal(settings, "a.parquet", "parquet").code in ("parquet", "changed")


def test_another_type_than_said(settings: SiteSettings) -> None:
    duckdb.sql("SELECT 1 AS x").write_parquet(str(settings.data_folder / "a.parquet"))
    assert refusal(settings, "a.parquet", "csv").code == "encoding"
    assert (
        refusal(settings, write(settings, "a.csv", "x\n1\n"), "parquet").code
        == "parquet"
    )
    assert refusal(settings, "a.csv", "excel").code == "data_type"


# --- the site's database ---------------------------------------------------------------------------------------------


@pytest.fixture
def table(settings: SiteSettings) -> SiteSettings:
    with duckdb.connect(str(settings.state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            "CREATE TABLE data.visits AS SELECT range AS pid, range AS id, range / 4 AS x, 'a' AS s FROM range(40)"
        )
    return settings


def test_a_table_gives_the_policys_columns_to_others(table: SiteSettings) -> None:
    assert (
        len(
            rows_of(table, "data.visits", "table", columns=["x", "id"], requester=OTHER)
        )
        == 40
    )
    assert (
        refusal(table, "data.visits", "table", columns=["pid"], requester=OTHER).code
        == "columns"
    )
    assert len(rows_of(table, "data.visits", "table", columns=["pid"])[0]) == 1
    assert len(rows_of(table, "DATA.Visits", "table", requester=OTHER)[0]) == 2
    assert refusal(table, "data.others", "table").code == "tables"
    for name in (
        "data.visits; DROP TABLE data.visits",
        'data."visits"',
        "a.b.c",
        "read_csv('/etc/passwd')",
    ):
        assert refusal(table, name, "table").code == "tables"


def test_sql_of_another_hospital_is_plain(table: SiteSettings) -> None:
    plain = "SELECT x FROM data.visits WHERE s = 'a';"
    assert len(rows_of(table, plain, "sql", requester=OTHER, columns=["x"])) == 40
    for text, code in (
        ("SELECT x * 2 AS x FROM data.visits", "select_list"),
        ("SELECT x FROM data.visits WHERE pid = 3", "filter_columns"),
        ("SELECT x FROM data.visits LIMIT 20", "clause"),
        ("SELECT * FROM read_csv('/etc/passwd')", "tables"),
    ):
        assert refusal(table, text, "sql", requester=OTHER).code == code
    assert rows_of(table, "SELECT avg(x) AS m FROM data.visits", "sql") == [(4.875,)]
    assert (
        refusal(table, "SELECT x FROM data.visits", "sql", columns=["y"]).code
        == "missing_column"
    )


def test_row_limit_at_below_and_above(table: SiteSettings) -> None:
    for max_rows, fits in ((39, False), (40, True), (41, True)):
        if fits:
            assert (
                len(
                    rows_of(
                        table, "data.visits", "table", policy=policy(max_rows=max_rows)
                    )
                )
                == 40
            )
        else:
            error = refusal(
                table, "data.visits", "table", policy=policy(max_rows=max_rows)
            )
            assert isinstance(error, TooLarge)


def test_no_database(settings: SiteSettings) -> None:
    assert isinstance(refusal(settings, "data.visits", "table"), Unavailable)


def test_the_database_is_free_again_once_the_rows_are_read(table: SiteSettings) -> None:
    options = {"data_path": "data.visits", "data_type": "table", "requester": OWN}
    with open_dataset(table, policy(), **options) as dataset:  # type: ignore[arg-type]
        with duckdb.connect(str(table.state / "hospital.duckdb")) as connection:
            connection.execute("DELETE FROM data.visits")
        assert dataset.query("SELECT count(*) FROM rows") == [(40,)]


# --- snapshots and counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet", "table"])
def test_a_snapshot_is_read_when_the_data_have_gone(
    table: SiteSettings, kind: str
) -> None:
    path = {"csv": "a.csv", "parquet": "a.parquet", "table": "data.visits"}[kind]
    write(table, "a.csv", "id,x\n" + "".join(f"{i},{i}.50\n" for i in range(40)))
    duckdb.sql("SELECT range AS id, range / 8 AS x FROM range(40)").write_parquet(
        str(table.data_folder / "a.parquet")
    )
    snapshot = table.state / "vault" / "rows.parquet"

    def read() -> tuple[str, dict[str, str], list[tuple[object, ...]]]:
        options = {
            "data_path": path,
            "data_type": kind,
            "requester": OWN,
            "columns": ["x", "id"],
        }
        with open_dataset(table, policy(), snapshot=snapshot, **options) as dataset:  # type: ignore[arg-type]
            return dataset.name, dataset.columns, dataset.query("SELECT * FROM rows")

    first = read()
    assert snapshot.stat().st_mode & 0o777 == 0o600
    for name in ("data/a.csv", "data/a.parquet", "hospital.duckdb"):
        (table.state / name).unlink()
    assert read() == first
    assert [p.name for p in snapshot.parent.iterdir()] == ["rows.parquet"]


NUMBERS = {
    "BIGINT": "-9007199254740993",
    "UBIGINT": "18446744073709551615",
    "HUGEINT": "-170141183460469231731687303715884105728",
    "UHUGEINT": "340282366920938463463374607431768211455",
    "DECIMAL(18,0)": "110105194912310001",
    "DECIMAL(38,10)": "1234567890123456789012345678.0123456789",
    "DOUBLE": "0.1",
    "FLOAT": "0.1",
    "BOOLEAN": "true",
    "TINYINT": "-128",
    "VARCHAR": "0.10",
}


def test_a_snapshot_has_the_types_and_digits_of_what_it_is_of(
    table: SiteSettings,
) -> None:
    """Parquet knows no HUGEINT; and a sketch of the snapshot's rows must be that of the
    rows themselves.
    """
    cells = ", ".join(
        f'\'{number}\'::{kind} AS "a ""{kind};"' for kind, number in NUMBERS.items()
    )
    with duckdb.connect(str(table.state / "hospital.duckdb")) as connection:
        connection.execute(
            f"CREATE OR REPLACE TABLE data.visits AS SELECT 1 AS pid, {cells}"
        )
    names = [f'a "{kind};' for kind in NUMBERS]
    found = []
    for snapshot in (None, table.state / "vault" / "rows.parquet"):
        options = {
            "data_path": "data.visits",
            "data_type": "table",
            "requester": OWN,
            "columns": names,
        }
        with open_dataset(table, policy(), snapshot=snapshot, **options) as dataset:  # type: ignore[arg-type]
            texts = ", ".join(f"CAST({quoted(name)} AS VARCHAR)" for name in names)
            hashes = ", ".join(map(quoted, names))
            found.append(
                (
                    dataset.columns,
                    dataset.query(f"SELECT {texts}, hash({hashes}) FROM rows"),
                )
            )
    assert found[0] == found[1]
    columns, rows = found[1]
    assert list(columns.values()) == list(NUMBERS)
    assert list(rows[0][:-1]) == list(NUMBERS.values())


def test_a_snapshot_of_an_earlier_version_is_read_as_it_was(
    settings: SiteSettings,
) -> None:
    snapshot = settings.state / "rows.parquet"
    duckdb.sql("SELECT 5::HUGEINT AS x").write_parquet(str(snapshot))
    assert rows_of(settings, "a.csv", snapshot=snapshot) == [(5.0,)]


def test_a_snapshot_is_whole_or_not_at_all(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = settings.state / "vault" / "rows.parquet"
    write(settings, "a.csv", "x\n1\n")
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk"))
        )
        with pytest.raises(OSError, match="disk"):
            rows_of(settings, "a.csv", snapshot=snapshot)
    assert list((settings.state / "vault").glob("*")) == []
    assert rows_of(settings, "a.csv", snapshot=snapshot) == [("1",)]


def test_small_counts_are_told_to_the_own_user_only() -> None:
    other = Dataset("a", {}, 100, 10, 1.0, None)
    assert [other.told(n) for n in (9, 10, 11)] == [
        "fewer than 10 rows",
        "10 rows",
        "11 rows",
    ]
    own = Dataset("a", {}, 100, 0, 1.0, None)
    assert [own.told(n) for n in (1, 2)] == ["1 row", "2 rows"]


def test_a_slow_query_is_stopped(settings: SiteSettings) -> None:
    options = {
        "data_path": write(settings, "a.csv", "x\n1\n"),
        "data_type": "csv",
        "requester": OWN,
    }
    with open_dataset(settings, policy(), **options) as dataset:  # type: ignore[arg-type]
        object.__setattr__(dataset, "timeout_seconds", 0.2)
        with pytest.raises(TooLarge) as caught:
            dataset.query(
                "SELECT sum(sin(a.range * b.range)) FROM range(1000000) a, range(1000000) b"
            )
    assert caught.value.code == "statement_timeout"


def test_refused_is_refused(settings: SiteSettings) -> None:
    assert isinstance(refusal(settings, "../a.csv"), Refused)
