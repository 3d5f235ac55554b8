"""The policy file: silence means no, unknown keys are errors, and each rule at its
threshold.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from agents.rows.allowed_sql import check_sql
from agents.site.policy import load_policy, parse_policy
from protocol.errors import Refused, check_rules
from protocol.policy import Policy, PolicyTold, StatisticsRules, policy_schema
from protocol.statistics_request import JOINED, POOLED

EXAMPLE = Path(__file__).parents[2] / "deployments/sites/policy.example.toml"
SCHEMA = EXAMPLE.with_name("policy.schema.json")
JSON_SCHEMA = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))

SMALLEST = """
[orders]
initiators = [2, 4]
methods = ["Paillier", "Mask"]
model_types = ["lr"]
sign = true
[tables."data.t"]
columns = ["id", "y", "x1"]
"""

STATISTICS = """
[statistics]
methods = ["sum", "avg"]
"""


def policy(text: str = SMALLEST) -> Policy:
    return parse_policy(text)


def order(**changes: Any) -> dict[str, Any]:
    return {
        "initiator": 4,
        "own_user_id": 2,
        "method": "Paillier",
        "model_type": "lr",
        "n_hospitals": 3,
        **changes,
    }


def rule_of(text: str) -> str:
    with pytest.raises(Refused) as caught:
        parse_policy(text)
    assert caught.value.code == "policy"
    assert caught.value.remedy
    return str(caught.value)


def test_the_example_is_a_policy() -> None:
    found = load_policy(EXAMPLE)
    assert found.orders.min_hospitals == 3
    assert found.cohort.max_parameter_share == Fraction(1, 3)
    assert found.tables["data.breast_homo_host"].columns[:2] == ("id", "y")


def test_the_example_documents_every_key() -> None:
    text = EXAMPLE.read_text("utf-8")
    for key in (
        "receivers",
        "min_hospitals",
        "score_readers",
        "min_varying",
        "max_rows",
        "filter_columns",
    ):
        assert f"\n{key} =" in text
    tomllib.loads(
        text.replace("# min_rows", "min_rows").replace("# min_varying", "min_varying")
    )


def test_defaults_are_the_strict_ones() -> None:
    found = policy()
    assert (
        found.cohort.min_rows,
        found.cohort.min_varying,
        found.orders.min_hospitals,
    ) == (10, 10, 3)
    assert (found.orders.scoring, found.orders.receivers) == ("none", (2, 4))
    assert found.orders.approval == "automatic"
    assert found.cohort.regroup is False
    assert (found.inference.allowed, found.inference.return_predictions) == (
        False,
        False,
    )
    assert found.tables["data.t"].filter_columns == ()


def test_no_section_means_no_statistics() -> None:
    assert policy().statistics is None
    assert load_policy(EXAMPLE).statistics is not None


def test_the_defaults_of_statistics_are_the_strict_ones() -> None:
    found = policy(SMALLEST + STATISTICS).statistics
    assert found == StatisticsRules(methods=("sum", "avg"))
    assert (found.files, found.row_level, found.min_providers, found.min_rows) == (
        (),
        (),
        3,
        10,
    )
    assert (found.extremes, found.exact_quantiles, found.disclose) == (
        False,
        False,
        False,
    )
    assert found.regroup is False
    assert (found.max_share, found.threshold_days) == (Fraction(9, 10), 30)


def test_statistics_take_min_rows_of_the_cohort_unless_they_have_their_own() -> None:
    cohort = "[cohort]\nmin_rows = 25\n"
    by_default, by_itself = (
        policy(SMALLEST + cohort + STATISTICS + own).statistics
        for own in ("", "min_rows = 5")
    )
    assert by_default is not None
    assert by_itself is not None
    assert (by_default.min_rows, by_itself.min_rows) == (25, 5)


def test_every_key_of_statistics_is_read() -> None:
    own = """files = ["a/*.csv", "*.parquet"]
unique_ids = { "a/*.csv" = "patient", "*" = "person" }
min_providers = 2
own_totals = true
same_as = { alter = "age" }
max_share = 0.8
extremes = true
exact_quantiles = true
disclose = true
row_level = ["units"]
row_expressions = true
threshold_days = 7
"""
    assert policy(SMALLEST + STATISTICS + own).statistics == StatisticsRules(
        methods=("sum", "avg"),
        files=("a/*.csv", "*.parquet"),
        unique_ids={"a/*.csv": "patient", "*": "person"},
        min_providers=2,
        own_totals=True,
        same_as={"alter": "age"},
        max_share=Fraction(4, 5),
        extremes=True,
        exact_quantiles=True,
        disclose=True,
        row_level=("units",),
        row_expressions=True,
        threshold_days=7,
    )


@pytest.mark.parametrize(
    "site", sorted(path.parent.name for path in EXAMPLE.parent.glob("*/policy.toml"))
)
def test_the_demonstration_allows_every_statistic(site: str) -> None:
    found = load_policy(EXAMPLE.parent / site / "policy.toml")
    assert found.statistics is not None
    assert set(found.statistics.methods) == {*POOLED, *JOINED}
    # An agent whose policy cannot be told does not start.
    told = found.told().statistics
    assert told is not None
    assert told.methods == found.statistics.methods


def test_what_is_told_has_no_name_of_table_column_or_file() -> None:
    found = policy(
        SMALLEST
        + STATISTICS
        + 'files = ["secret/*.csv"]\nrow_level = ["secret"]\n'
        + 'unique_ids = { "secret/*" = "secret" }\n'
    ).told()
    told = found.model_dump()
    assert told["orders"]["initiators"] == (2, 4)
    assert told["orders"]["min_rows"] == 10
    assert told["inference"] == {"allowed": False, "return_predictions": False}
    assert told["statistics"]["methods"] == ("sum", "avg")
    assert PolicyTold.model_validate(json.loads(json.dumps(told))) == found
    for name in (
        "data.t",
        "x1",
        "secret",
        "unique_id",
        "filter_columns",
        "columns",
        "files",
        "unique_ids",
    ):
        assert f'"{name}' not in json.dumps(told)


def test_of_cohorts_it_tells_name_and_description_where_the_policy_lets_it() -> None:
    told = [("first", "told = true"), ("second", ""), ("third", "told = false")]
    text = "".join(
        f'[cohorts.{name}]\nsql = "secret.sql"\nsha256 = "{"a" * 64}"\n'
        f'columns = ["secret"]\ndescription = "of {name}"\n{line}\n'
        for name, line in told
    )
    found = policy(SMALLEST + text).told().model_dump(mode="json")
    assert found["cohorts"] == [{"name": "first", "description": "of first"}]
    assert "secret" not in json.dumps(found)
    older = {name: value for name, value in found.items() if name != "cohorts"}
    assert PolicyTold.model_validate(older).cohorts == ()


def test_the_example_s_cohort_is_a_section() -> None:
    text = EXAMPLE.read_text("utf-8")
    found = parse_policy(
        re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE).replace(
            "omop.person", "data.breast_homo_host"
        )
    )
    cohort = found.cohorts["diabetes_v1"]
    definition = EXAMPLE.parent / cohort.sql
    assert hashlib.sha256(definition.read_bytes()).hexdigest() == cohort.sha256


def test_without_the_section_it_tells_that_there_are_no_statistics() -> None:
    assert policy().told().statistics is None


def test_the_schema_in_the_tree_is_that_of_the_model() -> None:
    written = SCHEMA.read_text("utf-8")
    renew = f'python -c "from protocol.policy import policy_schema; print(policy_schema(), end=str())" > {SCHEMA}'
    assert written == policy_schema(), renew
    assert EXAMPLE.read_text("utf-8").startswith("#:schema ./policy.schema.json\n")


@pytest.mark.parametrize(
    "path",
    sorted(EXAMPLE.parent.rglob("policy*.toml")),
    ids=lambda path: path.parent.name,
)
def test_an_editor_finds_no_fault_in_our_own_policies(path: Path) -> None:
    JSON_SCHEMA.validate(tomllib.loads(path.read_text("utf-8")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sign = true", ""),
        ("sign = true", "sign = 1"),
        ("sign = true", "sign = true\nmin_row = 3"),
        ("sign = true", "sign = true\nmin_hospitals = 0"),
        ("sign = true", 'sign = true\nscoring = "all"'),
        ('"Mask"', '"mask"'),
        ("columns = ", "colums = "),
        ('[tables."data.t"]\ncolumns = ["id", "y", "x1"]', "[tables]"),
        ("[tables", '[statistics]\nmethods = ["mean"]\n[tables'),
        ("[tables", "[cohort]\nmax_parameter_share = 0\n[tables"),
    ],
)
def test_an_editor_finds_what_is_wrong_in_one_key(old: str, new: str) -> None:
    JSON_SCHEMA.validate(tomllib.loads(SMALLEST))
    assert old in SMALLEST
    text = SMALLEST.replace(old, new)
    assert not JSON_SCHEMA.is_valid(tomllib.loads(text))
    rule_of(text)


def test_a_table_s_name_is_its_section_s() -> None:
    assert policy().tables["data.t"].name == "data.t"
    for key in ("name", "_name"):
        assert f"tables.data.t.{key}" in rule_of(SMALLEST + f'{key} = "data.other"')


def test_what_is_told_has_every_key_and_no_default() -> None:
    """What an agent does not say is not shown as if it had said it; what it says beyond
    the rules is dropped.
    """
    told = policy(SMALLEST + STATISTICS).told().model_dump(mode="json")
    assert (
        PolicyTold.model_validate({**told, "tables": ["data.t"]}).model_dump(
            mode="json"
        )
        == told
    )
    for section in ("orders", "inference", "statistics"):
        for key in told[section]:
            less = {name: value for name, value in told[section].items() if name != key}
            if key in ("oldest_protocol", "sparse_masks"):
                # Agents of protocol 2 do not tell them.
                shown = PolicyTold.model_validate({**told, section: less})
                assert getattr(getattr(shown, section), key) is None
                continue
            with pytest.raises(ValidationError):
                PolicyTold.model_validate({**told, section: less})


def test_no_file_is_a_refusal_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"Copy deployments/sites/policy\.example\.toml"):
        load_policy(tmp_path / "policy.toml")
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="UTF-8"):
        load_policy(tmp_path / "latin.toml")


@pytest.mark.parametrize("key", ["initiators", "methods", "model_types", "sign"])
def test_a_missing_key_is_named(key: str) -> None:
    text = "\n".join(line for line in SMALLEST.splitlines() if not line.startswith(key))
    assert f"orders.{key} is missing" in rule_of(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (SMALLEST + "colums = []", "tables.data.t.colums"),
        ("extra = 1\n" + SMALLEST, "extra"),
        (SMALLEST.replace("sign = true", "sign = true\nmin_row = 3"), "orders.min_row"),
        (SMALLEST.replace("sign = true", "sign = 1"), "orders.sign"),
        (SMALLEST.replace("[2, 4]", "[true]"), "orders.initiators"),
        (SMALLEST.replace('"Mask"', '"mask"'), "orders.methods"),
        (SMALLEST.replace('["lr"]', '["resnet_18"]'), "orders.model_types"),
        (SMALLEST.replace("[2, 4]", "[3000000000]"), "orders.initiators"),
        (
            SMALLEST.replace("sign = true", f"sign = true\nmin_hospitals = {2**63}"),
            "orders.min_hospitals",
        ),
        (SMALLEST + "min_rows = 0", "min_rows"),
        (SMALLEST + "max_parameter_share = '1/0'", "max_parameter_share"),
        (SMALLEST + "max_parameter_share = -1", "max_parameter_share"),
        (SMALLEST + "filter_columns = ['ID']", "filter_columns"),
        (SMALLEST + "filter_columns = ['*']", "filter_columns"),
        (SMALLEST.replace('["id", "y", "x1"]', '["*", "x1"]'), "columns"),
        (SMALLEST.replace("data.t", "a.b.c"), "a.b.c"),
        (SMALLEST + '[tables."DATA.T"]\ncolumns = ["x"]', "twice"),
        (SMALLEST.split("[tables")[0], "tables"),
        (SMALLEST + "[statistics]\nmin_rows = 5", "statistics.methods is missing"),
        (SMALLEST + "[statistics]\nmethods = []", "statistics.methods"),
        (SMALLEST + "[statistics]\nmethods = ['mean']", "statistics.methods"),
        (SMALLEST + STATISTICS + "min_row = 5", "statistics.min_row"),
        (SMALLEST + STATISTICS + "min_rows = 0", "statistics.min_rows"),
        (SMALLEST + STATISTICS + "min_providers = true", "statistics.min_providers"),
        (SMALLEST + STATISTICS + "max_share = '11/10'", "statistics.max_share"),
        (SMALLEST + STATISTICS + "max_share = 0", "statistics.max_share"),
        (SMALLEST + STATISTICS + "extremes = 1", "statistics.extremes"),
        (SMALLEST + STATISTICS + "files = '*'", "statistics.files"),
        (SMALLEST + STATISTICS + "files = ['/data/*']", "statistics.files"),
        (SMALLEST + STATISTICS + "files = ['a/../*']", "statistics.files"),
        (SMALLEST + STATISTICS + "unique_ids = 'id'", "statistics.unique_ids"),
        (SMALLEST + STATISTICS + "unique_ids = { '*' = 1 }", "statistics.unique_ids"),
        (SMALLEST + STATISTICS + "unique_ids = { '*' = '' }", "statistics.unique_ids"),
        (SMALLEST + STATISTICS + "unique_ids = { '' = 'id' }", "statistics.unique_ids"),
        (
            SMALLEST + STATISTICS + "unique_ids = { '/a' = 'i' }",
            "statistics.unique_ids",
        ),
        (SMALLEST + STATISTICS + "row_level = ['*']", "statistics.row_level"),
        (SMALLEST + STATISTICS + "threshold_days = -1", "statistics.threshold_days"),
        ("[orders", "not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(text: str, named: str) -> None:
    assert named in rule_of(text)


def test_a_table_may_have_its_own_numbers() -> None:
    table = policy(SMALLEST + "min_rows = 20\nmax_parameter_share = 0.5").tables[
        "data.t"
    ]
    assert (table.min_rows, table.min_varying, table.max_parameter_share) == (
        20,
        20,
        Fraction(1, 2),
    )
    assert (
        policy(SMALLEST + "min_rows = 20\nmin_varying = 1").tables["data.t"].min_varying
        == 1
    )


def test_an_allowed_order_passes() -> None:
    check_rules(policy().order_rules(**order()))
    check_rules(policy().order_rules(**order(initiator=2)))
    check_rules(policy().order_rules(**order(receivers=[2, 4])))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"initiator": 3}, "initiators"),
        ({"method": "None"}, "methods"),
        ({"model_type": "softmax"}, "model_types"),
        ({"receivers": [4, 9]}, "receivers"),
        ({"scoring": "round"}, "scoring"),
        ({"scoring": "anything"}, "scoring"),
        ({"n_hospitals": 2}, "min_hospitals"),
    ],
)
def test_each_rule_refuses_by_its_name(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(Refused) as caught:
        check_rules(policy().order_rules(**order(**changes)))
    assert caught.value.code == rule


def test_min_hospitals_below_at_and_above() -> None:
    policy().check_hospitals(3)
    policy().check_hospitals(4)
    with pytest.raises(Refused):
        policy().check_hospitals(2)
    policy(
        SMALLEST.replace("sign = true", "sign = true\nmin_hospitals = 1")
    ).check_hospitals(1)


def test_an_agent_that_does_not_sign_refuses_its_own_user_only() -> None:
    found = policy(SMALLEST.replace("sign = true", "sign = false"))
    check_rules(found.order_rules(**order()))
    with pytest.raises(Refused) as caught:
        check_rules(found.order_rules(**order(initiator=2)))
    assert caught.value.code == "sign"


def test_scoring_levels_include_the_lower_ones() -> None:
    found = policy(SMALLEST.replace("sign = true", 'sign = true\nscoring = "round"'))
    found.check_scoring("none")
    found.check_scoring("round")
    with pytest.raises(Refused):
        found.check_scoring("full")


def test_inference_and_predictions_each_need_their_yes() -> None:
    with pytest.raises(Refused):
        policy().check_inference()
    found = policy(SMALLEST + "[inference]\nallowed = true")
    found.check_inference()
    # Who asks is told of the way that needs none.
    with pytest.raises(Refused, match="Ask with reader"):
        found.check_return_predictions()


def test_tables_are_found_in_any_case() -> None:
    assert policy().table("DATA.T").name == "data.t"
    with pytest.raises(Refused) as caught:
        policy().table("data.other")
    assert caught.value.code == "tables"


def test_the_rules_of_a_later_version_s_agent_are_known_too() -> None:
    """Hospitals do not upgrade on one day.

    Whether a person decides there must be known before places are taken.
    """
    reported = policy(SMALLEST + STATISTICS).told().model_dump(mode="json")
    reported["orders"] |= {
        "methods": ["Mask", "LatticeSum"],
        "model_types": ["lr", "gbdt"],
        "initiators": [0],
        "approval": "manual",
        "min_hospitals": 2**31,
        "new_rule": True,
    }
    told = PolicyTold.model_validate(reported)
    assert told.orders.approval == "manual"
    assert told.orders.model_types == ("lr", "gbdt")
    assert not hasattr(told.orders, "new_rule")


@pytest.mark.parametrize("word", ["<b>bold</b>", "a" * 41, ""])
def test_a_reported_word_is_a_word(word: str) -> None:
    reported = policy(SMALLEST).told().model_dump(mode="json")
    reported["orders"]["methods"] = [word]
    with pytest.raises(ValidationError):
        PolicyTold.model_validate(reported)


def test_a_table_may_be_open_to_the_own_users_alone() -> None:
    """Without an open column nobody else can select one, and silence means no."""
    closed = policy(SMALLEST.replace('columns = ["id", "y", "x1"]', ""))
    assert closed == policy(SMALLEST.replace('["id", "y", "x1"]', "[]"))
    text = "SELECT id, y, x1 FROM data.t"

    def check(requester: int) -> None:
        check_sql(
            text,
            policy=closed,
            requester=requester,
            own_user_id=2,
            unique_id="id",
            label="y",
            dialect="duckdb",
        )

    check(2)
    with pytest.raises(Refused) as refused:
        check(4)
    assert refused.value.code == "columns"


def test_all_reasons_of_a_policy_are_said_at_once() -> None:
    with pytest.raises(Refused) as refused:
        check_rules(
            policy(SMALLEST).order_rules(
                initiator=9,
                own_user_id=2,
                method="None",
                model_type="cnn",
                n_hospitals=1,
                receivers=[9],
                scoring="full",
            )
        )
    told = [reason["code"] for reason in refused.value.detail["reasons"]]
    assert told == [
        "initiators",
        "methods",
        "model_types",
        "min_hospitals",
        "receivers",
        "scoring",
    ]
    assert refused.value.code == "initiators"
    for reason in refused.value.detail["reasons"]:
        assert reason["sentence"] in str(refused.value)
        assert reason["remedy"] in str(refused.value)
