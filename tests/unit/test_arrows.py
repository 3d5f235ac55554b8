"""The import arrows of the design, and what no module may do, on the syntax trees of all packages.

Imports within functions count, and so do modules that are imported by a name in a string.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "analytics": set(),
    "protocol": set(),
    "agents": {"analytics", "protocol"},
    "tasks": {"analytics", "protocol", "agents"},
    "flows": {"tasks", "analytics", "protocol"},
    "api": {"analytics", "protocol"},
    "deployments": {"analytics", "protocol", "agents", "tasks", "flows", "api"},
}
PACKAGES = sorted(ALLOWED)
NOT_PACKAGES = {"tests", "benchmarks"}
PURE = {"analytics", "protocol"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle", "pty"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    ("os", "system"),
    ("os", "popen"),
    ("asyncio", "create_subprocess_shell"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("np", "fromstring"),
    ("pd", "eval"),
    ("pd", "read_pickle"),
    ("yaml", "load"),
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def every_module() -> list[Path]:
    return [path for package in PACKAGES for path in modules(package)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import at any depth; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node)[-1] in ("import_module", "__import__", "find_spec"):
            yield from ((node.lineno, text) for text in texts(node.args[:1]))


def texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def called(node: ast.Call) -> tuple[str, str]:
    """("", "eval") for eval(...), ("os", "system") for os.system(...), ("", "put") for a.b.put(...)."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return (owner.id if isinstance(owner, ast.Name) else ""), node.func.attr
    return "", node.func.id if isinstance(node.func, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[ast.Call, tuple[str, str]]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield node, called(node)


def test_every_folder_with_modules_has_its_arrows() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - NOT_PACKAGES == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    others = set(PACKAGES) - {package} - ALLOWED[package]
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules(package)
        for line, module in imported(tree_of(path))
        if module.split(".")[0] in others | NOT_PACKAGES
    ]
    assert wrong == []


def test_agents_and_api_never_import_each_other() -> None:
    assert "api" not in ALLOWED["agents"] | ALLOWED["tasks"] | ALLOWED["flows"]
    assert not ALLOWED["api"] & {"agents", "tasks", "flows", "deployments"}


@pytest.mark.parametrize("package", sorted(PURE))
def test_mathematics_and_protocol_need_no_server_and_no_database(package: str) -> None:
    forbidden = {"prefect", "fastapi", "sqlalchemy", "duckdb", "uvicorn", "pandas", "subprocess", "socket"}
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules(package)
        for line, module in imported(tree_of(path))
        if module.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_analytics_has_no_clock_and_no_secret() -> None:
    forbidden = {"os", "time", "datetime", "secrets", "random", "pathlib", "io", "httpx", "cryptography", "logging"}
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules("analytics")
        for line, module in imported(tree_of(path))
        if module.split(".")[0] in forbidden
    ]
    assert wrong == []


# Nothing that turns bytes or text into code


def test_nothing_unpickles() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in every_module()
        for line, module in imported(tree_of(path))
        if UNSAFE_MODULES & set(module.split("."))
    ]
    assert wrong == []


def test_arrays_are_loaded_and_saved_without_pickle() -> None:
    wrong = []
    for path in every_module():
        for node, (owner, name) in calls(path):
            if (owner, name) in (("np", "load"), ("np", "save"), ("np", "savez"), ("np", "savez_compressed")):
                said = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                if not (said and isinstance(said[0], ast.Constant) and said[0].value is False):
                    wrong.append(f"{name_of(path)}:{node.lineno} {owner}.{name} without allow_pickle=False")
    assert wrong == []


def test_nothing_evaluates_text_or_starts_a_shell() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno} calls {owner}.{name}"
        for path in every_module()
        for node, (owner, name) in calls(path)
        if (owner, name) in UNSAFE_METHODS
        or (name in UNSAFE_CALLS and isinstance(node.func, ast.Name))
        or any(k.arg == "shell" and not is_false(k.value) for k in node.keywords)
    ]
    assert wrong == []


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_every_random_secret_is_from_the_operating_system() -> None:
    """Python's and numpy's generators can be predicted from their output; jitter is the one use that is allowed."""
    wrong = [
        f"{name_of(path)}:{node.lineno} calls {owner}.{name}"
        for package in ("protocol", "agents", "tasks", "flows", "api")
        for path in modules(package)
        for node, (owner, name) in calls(path)
        if (owner == "random" and name != "uniform") or name == "default_rng"
    ]
    assert wrong == []


# One door


def users_of(function: str) -> set[str]:
    return {name_of(path) for path in every_module() for _, (_, name) in calls(path) if name == function}


def test_only_the_release_door_writes_envelopes() -> None:
    assert users_of("write_envelope") == {"agents/release.py"}


def test_only_the_release_door_seals_what_leaves_a_hospital() -> None:
    """The other user is the coordinator's side: SQL texts, sealed to each hospital by protocol.messages."""
    assert users_of("seal_to") == {"agents/release.py", "protocol/messages.py"}
    assert {name_of(p) for p in every_module() if "seal_to" in p.read_text("utf-8")} - {"protocol/sealing.py"} == {
        "agents/release.py",
        "protocol/messages.py",
    }


def test_only_the_release_door_puts_a_hospital_s_messages() -> None:
    """`exchange.put` elsewhere: the coordinator's own steps, and the one-process federation's stand-in for the API."""
    putting = {
        name_of(path)
        for path in every_module()
        for node, (owner, name) in calls(path)
        if name == "put" and (owner in ("exchange", "transport") or owner_name(node) in ("exchange", "transport"))
    }
    assert putting == {
        "agents/release.py",
        "protocol/exchange.py",
        "tasks/coordinator.py",
        "tasks/joint_statistics.py",
        "tasks/scoring.py",
        "deployments/one_process.py",
    }


def owner_name(node: ast.Call) -> str:
    """The last part of what a method belongs to: "exchange" for self.exchange.put(...)."""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return owner.attr if isinstance(owner, ast.Attribute) else ""


def test_nothing_is_signed_but_envelopes_and_what_people_decide() -> None:
    assert {name_of(p) for p in every_module() for n, (_, name) in calls(p) if name == "sign" and n.args} == {
        "agents/approval.py",
        "protocol/messages.py",
        "protocol/sealing.py",
    }


# Who asks Prefect


def test_in_the_api_only_runs_asks_prefect() -> None:
    asking = {
        name_of(path)
        for path in modules("api")
        for _, module in imported(tree_of(path))
        if module.split(".")[0] == "prefect"
    }
    assert asking == {"api/runs.py", "api/timing.py"}


def test_only_the_store_speaks_sql_at_the_coordinator() -> None:
    speaking = {
        name_of(path)
        for path in modules("api")
        for _, module in imported(tree_of(path))
        if module.split(".")[0] in ("sqlalchemy", "alembic") and "migrations" not in path.parts
    }
    assert speaking == {"api/store.py", "api/place_store.py", "api/schedule_store.py", "api/tables.py"}


@pytest.mark.parametrize("reader", ["pandas", "duckdb", "sqlalchemy"])
def test_only_source_cohort_and_dataset_see_rows_at_a_hospital(reader: str) -> None:
    reading = {
        name_of(path)
        for path in modules("agents")
        for _, module in imported(tree_of(path))
        if module.split(".")[0] == reader
    }
    assert reading <= {"agents/source.py", "agents/cohort.py", "agents/dataset.py"}


def test_a_federation_in_one_process_needs_no_prefect() -> None:
    """Nor what else takes long to import: simulations start at once."""
    heavy = "{'prefect', 'fastapi', 'nicegui', 'sklearn', 'scipy', 'networkx', 'matplotlib'}"
    code = f"import sys, deployments.one_process; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
