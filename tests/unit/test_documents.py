"""Documents are checked: what the code has stands in them, and what they name exists."""

from __future__ import annotations

import ast
import functools
import json
import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from agents.site import settings
from api.app import create_app
from api.settings import load_settings
from deployments.agent import _COMMANDS as AGENT_COMMANDS
from protocol import policy
from protocol.study import STUDY

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agents", "analytics", "api", "deployments", "flows", "protocol", "tasks")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
IN_BOTH_LANGUAGES = {
    "README": READMES,
    "hospital-it": (
        ROOT / "docs" / "hospital-it.md",
        ROOT / "docs" / "hospital-it.zh-CN.md",
    ),
}
A_WORD = re.compile(r"[A-Za-z][A-Za-z_-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODED_BY_POSITION = {
    "adder",
    "bad_request",
    "other_version",
    "_refused",
    "refused_sql",
    "_wrong",
    "_check_owners",
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def code_words(text: str) -> set[str]:
    """What stands between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))


def table_words(text: str) -> set[str]:
    """The backticked words in the first two cells of a document's tables."""
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("|")]
    return {
        word
        for cells in rows
        for cell in cells
        for word in re.findall(r"`([^`]+)`", cell)
    }


@functools.cache
def trees() -> list[ast.Module]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found.append(ast.parse(path.read_text("utf-8")))
    return found


def strings(value: object) -> list[str]:
    return (
        [value.value]
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
        else []
    )


def name_of_call(call: ast.Call) -> str:
    return (
        call.func.id
        if isinstance(call.func, ast.Name)
        else getattr(call.func, "attr", "")
    )


@functools.cache
def error_codes() -> frozenset[str]:
    """Every word that the code gives as an error's code: by keyword, by position, or as
    a class's default.
    """
    found: set[str] = {
        "missing_column",
        "missing_table",
    }  # agents.rows.faults composes these two
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            found |= {
                word
                for key in node.keywords
                if key.arg in ("code", "rule")
                for word in strings(key.value)
            }
            is_problem = name_of_call(node) == "add" and len(node.args) == 3
            is_coded = name_of_call(node) in CODED_BY_POSITION
            if (is_coded or is_problem) and node.args:
                found |= {
                    word for word in strings(node.args[0]) if A_WORD.fullmatch(word)
                }
        if isinstance(node, ast.Assign) and [
            ast.unparse(target) for target in node.targets
        ] == ["default_code"]:
            found |= set(strings(node.value))
    return frozenset(found - {"error"})


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


# What a new study sets


def test_the_document_has_what_a_new_study_should_set() -> None:
    texts = [
        body for kind, body in FENCE.findall(text_of("docs/api.md")) if kind == "json"
    ]
    assert json.dumps(STUDY) in [
        json.dumps(json.loads(text)) for text in texts if '"standardize"' in text
    ]


# Settings


def test_every_environment_variable_of_the_code_is_in_the_table_and_none_else() -> None:
    in_code = {
        word for tree in trees() for node in ast.walk(tree) for word in strings(node)
    }
    variables = {word for word in in_code if re.fullmatch(r"CONSILIUM_[A-Z_]+", word)}
    assert variables
    documented = {
        word
        for word in table_words(text_of("docs/settings.md"))
        if word.startswith("CONSILIUM_")
    }
    assert documented == variables


def test_every_key_of_settings_toml_is_in_the_table_and_none_else() -> None:
    section = (
        text_of("docs/settings.md")
        .split("## settings.toml")[1]
        .split("## policy.toml")[0]
    )
    documented = {
        word.strip("[]")
        for line in section.splitlines()
        for word in re.findall(r"^\| `([^`]+)`", line)
    }
    assert documented == set(settings._KEYS)


def test_every_key_of_policy_toml_is_in_the_table_and_in_the_example() -> None:
    text = text_of("deployments/sites/policy.example.toml")
    # A key that is commented out has no blank behind its #.
    example = tomllib.loads(re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE))
    sections = [*example["tables"].values(), *example["cohorts"].values()]
    of_tables = {key for table in sections for key in table}
    keys = {
        *example["orders"],
        *example["cohort"],
        *of_tables,
        *example["inference"],
        *example["statistics"],
    }
    others = (
        policy.CohortRules,
        policy.TableRules,
        policy.NamedCohort,
        policy.InferenceRules,
        policy.StatisticsRules,
    )
    rules = (policy.OrderRules, *others)
    in_code = {name for rule in rules for name in rule.model_fields}
    assert keys == in_code
    section = text_of("docs/settings.md").split("## policy.toml")[1]
    assert keys <= table_words(section)
    assert {
        word for word in table_words(section) if re.fullmatch("[a-z_][a-z_0-9]*", word)
    } == keys


# Routes, deployments, commands


def test_every_public_route_has_its_place_in_the_api_page() -> None:
    text = text_of("docs/api.md")
    routes = {
        f"{method.upper()} {path}"
        for path, methods in create_app(load_settings()).openapi()["paths"].items()
        for method in methods
    }
    assert len(routes) >= 12
    assert [route for route in sorted(routes) if route not in text] == []
    named = set(re.findall(r"\b(?:GET|POST|PUT|DELETE) /[\w/{}.]*[\w}]", text))
    assert {name for name in named if name.removesuffix("/") not in routes} <= {
        "GET /docs",
        "GET /openapi.json",
    }


def test_every_deployment_is_in_the_architecture() -> None:
    text = text_of("ARCHITECTURE.md")
    for entry in yaml.safe_load(text_of("prefect.yaml"))["deployments"]:
        module, _, function = entry["entrypoint"].rpartition(".")
        source = text_of(f"{module.replace('.', '/')}.py")
        flow = re.search(
            rf'@flow\(\s*name="([\w-]+)"[^()]*\)\ndef {function}\(', source
        )
        assert flow, entry["entrypoint"]
        assert f"`{flow[1]}/{entry['name']}`" in text


def commands_of_run() -> set[str]:
    branches = re.findall(r"^ {2}([a-z |]+)\)$", text_of("run"), re.MULTILINE)
    return {word.strip() for branch in branches for word in branch.split("|")}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    for line in re.findall(r"(?:\./|/opt/consilium/)run ([a-z][^\n`]*)", text):
        first, *rest = line.split()
        assert first.strip(",.;:)") in commands_of_run(), line
        words = [word for word in rest if A_WORD.fullmatch(word)]
        if first == "agent" and rest and A_WORD.fullmatch(rest[0]):
            assert words[0] in AGENT_COMMANDS, line
        if first == "server" and rest and A_WORD.fullmatch(rest[0]):
            assert f'"{words[0]}"' in text_of("deployments/server/__init__.py"), line


@pytest.mark.parametrize("page", IN_BOTH_LANGUAGES)
def test_both_languages_have_the_same_headings_pictures_and_commands(page: str) -> None:
    english, chinese = (path.read_text("utf-8") for path in IN_BOTH_LANGUAGES[page])
    for pattern in (r"^#+ ", r"^\|", r"!\[", r"^- "):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(
            re.findall(pattern, chinese, re.MULTILINE)
        )
    assert FENCE.findall(english) == FENCE.findall(chinese)


@pytest.mark.parametrize("page", IN_BOTH_LANGUAGES)
def test_both_languages_name_the_same_settings_in_each_section(page: str) -> None:
    """Whatever stands in backticks: keys, values, methods, files, codes, columns."""
    english, chinese = (path.read_text("utf-8") for path in IN_BOTH_LANGUAGES[page])
    chinese = chinese.replace("文件`", "FILE`").replace("<目录>", "<folder>")
    assert [code_words(section) for section in sections(english)] == [
        code_words(section) for section in sections(chinese)
    ]


def sections(text: str) -> list[str]:
    """Each in one line, without code blocks, in which a line may begin with #."""
    found = re.split(r"^#+ .*$", FENCE.sub("", text), flags=re.MULTILINE)
    return [" ".join(section.split()) for section in found]


# Links and code


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(path: Path) -> None:
    text = FENCE.sub("", path.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = path if not name else (path.parent / name).resolve()
        assert target.exists(), link
        if anchor:
            headings = re.findall(
                r"^#+ (.+)$", FENCE.sub("", target.read_text("utf-8")), re.MULTILINE
            )
            assert anchor in {slug(heading) for heading in headings}, link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_and_toml_blocks_parse(path: Path) -> None:
    for language, block in FENCE.findall(path.read_text("utf-8")):
        if language == "python":
            ast.parse(block)
        if language == "toml":
            tomllib.loads(block)


@pytest.mark.parametrize(
    "name",
    [
        "SECURITY.md",
        "DECISIONS.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "GLOSSARY.md",
    ],
)
def test_files_that_documents_name_exist(name: str) -> None:
    named = {
        word
        for word in code_words(text_of(name))
        if re.fullmatch(r"[\w.-]+/[\w./-]*", word)
    }
    ours = {
        word
        for word in named
        if word.split("/")[0] in (*PACKAGES, "tests", "docs", "benchmarks")
    }
    assert ours
    assert [word for word in sorted(ours) if not (ROOT / word).exists()] == []


# Errors


def test_every_error_code_is_listed_and_every_listed_one_exists() -> None:
    text = text_of("docs/errors.md").split("## The order as it was sent")[1]
    listed = {
        word
        for line in text.splitlines()
        if line.startswith("| `")
        for word in first_cell_words(line)
    }
    known = {*error_codes(), *policy.OrderRules.model_fields}
    assert sorted(error_codes() - listed) == []
    assert sorted(listed - known) == []


def first_cell_words(line: str) -> list[str]:
    return re.findall(r"`([^`]+)`", line.split("|")[1])


def test_every_option_that_a_page_names_is_run_by_a_test() -> None:
    pages = (*READMES, *(ROOT / "docs").glob("*.md"))
    named = {
        option
        for page in pages
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text("utf-8"))
    }
    sources = [
        path.read_text("utf-8")
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
    ]
    run = {option for option in named for source in sources if f'"{option}"' in source}
    named.discard("--thorough")  # what runs the tests themselves
    assert named == run


def test_every_error_type_is_listed_with_its_status() -> None:
    text = text_of("docs/errors.md")
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and [
                ast.unparse(base) for base in node.bases
            ] == ["ConsiliumError"]:
                status = next(
                    a.value
                    for a in node.body
                    if isinstance(a, ast.Assign) and "status" in ast.unparse(a)
                )
                assert f"| `{node.name}` | {ast.unparse(status)} |" in text


def test_a_notebook_comes_to_its_first_picture_in_twelve_lines() -> None:
    """From the import on; one key, one order, one picture."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", text_of("docs/notebook.md"), re.M | re.S
    )
    lines: list[str] = []
    for block in blocks:
        lines += [line for line in block.splitlines() if line.strip()]
        if "savefig" in block:
            break
    assert lines[-1].startswith("forest(")
    assert len(lines) <= 12
    assert max(len(line) for line in lines) <= 88
