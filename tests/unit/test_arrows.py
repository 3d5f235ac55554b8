"""The import arrows of the design, and what no module may do, on the syntax trees of
all packages.

Imports within functions count, and so do modules that are imported by a name in a
string.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the modules of a room may import beside themselves and their own room; the
# longest name that fits counts.
CORE = {"analytics", "protocol"}
SIDES = {
    "tasks.steps",
    "tasks.worker",
    "tasks.kept_runs",
    "tasks.patient_worker",
    "tasks.ending",
    "tasks.exit_codes",
    "tasks.flow_process",
    "tasks.post",
    "tasks.quiet",
}
ALLOWED = {
    "analytics": set(),
    "analytics.training": {"analytics.arrays"},
    "analytics.scores": {"analytics.arrays"},
    "analytics.statistics": {"analytics.arrays"},
    "protocol": {"analytics", "protocol"},
    "protocol.machine": {"protocol.errors"},
    "protocol.sums": {"protocol.errors", "analytics"},
    "protocol.shares": {"protocol.errors", "protocol.sums", "analytics"},
    "agents": set(),
    "agents.site": CORE,
    "agents.rows": CORE | {"agents.site"},
    "agents.gate": CORE | {"agents.site", "agents.rows"},
    "agents.order": CORE | {"agents.site"},
    "agents.training": CORE
    | {"agents.site", "agents.rows", "agents.gate", "agents.order"},
    "agents.statistics": CORE
    | {"agents.site", "agents.rows", "agents.gate", "agents.order"},
    "agents.page": CORE
    | {
        "agents.site",
        "agents.gate",
        "agents.order",
        "agents.training",
        "agents.statistics",
    },
    "agents.check": CORE | {"agents.site", "agents.rows", "agents.gate"},
    "agents.check.order": CORE
    | {
        "agents.site",
        "agents.rows",
        "agents.gate",
        "agents.order",
        "agents.training",
        "agents.statistics",
        "agents.check",
    },
    "tasks": CORE | SIDES,
    "tasks.coordinator": CORE | SIDES,
    "tasks.hospital": CORE | SIDES | {"agents"},
    "flows": set(),
    "flows.coordinator": CORE | {"tasks.coordinator"},
    "flows.coordinator_runs": CORE | {"tasks.coordinator", "flows.coordinator"},
    "flows.hospital": CORE | {"tasks.hospital"},
    "flows.hospital_runs": CORE | {"tasks.hospital", "flows.hospital"},
    "api": set(),
    "api.settings": CORE,
    "api.answers": CORE,
    "api.live": CORE,
    "api.due_times": CORE,
    "api.store": CORE,
    "api.conditions": CORE | {"api.live"},
    "api.together": CORE | {"api.live", "api.conditions"},
    "api.auth": CORE | {"api.store"},
    "api.sign_in": CORE | {"api.settings"},
    "api.connections": set(),
    "api.headers": set(),
    "api.people": {"api.headers"},
    "api.door": CORE
    | {
        "api.people",
        "api.answers",
        "api.auth",
        "api.gateway",
        "api.headers",
        "api.settings",
        "api.store",
    },
    "api.prefect_deletion": CORE,
    "api.prefect_parts": CORE,
    "api.prefect_runs": CORE
    | {"api.due_times", "api.prefect_deletion", "api.prefect_parts"},
    "api.duties": CORE | {"api.prefect_runs"},
    # The codes that a state may carry to Prefect are those that have a word there.
    "api.gateway": CORE
    | {"api.answers", "api.auth", "api.store", "api.pages.error_words"},
    "api.told_orders": CORE | {"api.live", "api.store"},
    "api.routes": CORE
    | {
        "api.store",
        "api.told_orders",
        "api.live",
        "api.conditions",
        "api.answers",
        "api.due_times",
        "api.auth",
        "api.duties",
        "api.prefect_parts",
        "api.prefect_runs",
        "api.settings",
    },
    "api.trimming": CORE | {"api.duties", "api.routes", "api.store"},
    "api.pages": CORE
    | {
        "api.store",
        "api.live",
        "api.auth",
        "api.routes",
        "api.headers",
        "api.settings",
        "api.sign_in",
    },
    "api.client": {"protocol"},
    "consilium_client": {"protocol", "api.client"},
    "api.app": CORE | {"api"},
    "deployments": {"analytics", "protocol", "agents", "tasks", "flows", "api"},
}
PACKAGES = sorted(name for name in ALLOWED if "." not in name)
NOT_PACKAGES = {"tests", "benchmarks"}
PURE = {"analytics", "protocol"}
# Which rooms may read patients' rows and speak SQL. The demonstration makes the
# hospitals' tables itself, and compares with the pooled ones; it is in no installed
# part. A person at a notebook gets tables of scores as pandas frames.
READERS = {
    "pandas": ("agents/rows/", "api/client/", "api/pages/", "deployments/demo/"),
    "duckdb": ("agents/rows/", "deployments/demo/"),
    "sqlalchemy": ("agents/rows/", "api/store/", "deployments/demo/"),
    "alembic": ("api/store/",),
}
# The one place that imports by a computed name: the process of a flow run, which is
# given the names by the flow's own object in the worker that started it.
BY_COMPUTED_NAME = {"tasks/flow_process.py"}
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
    "pty",
}
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


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All of a module, at any depth: to walk it takes longer than to look at it."""
    return list(ast.walk(tree_of(path)))


@functools.cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import of a module."""
    return list(imported(tree_of(path)))


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import at any depth; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (
                (node.lineno, f"{node.module}.{alias.name}") for alias in node.names
            )
        elif isinstance(node, ast.Call) and called(node)[-1] in (
            "import_module",
            "__import__",
            "find_spec",
        ):
            yield from ((node.lineno, text) for text in texts(node.args[:1]))


def texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def called(node: ast.Call) -> tuple[str, str]:
    """("", "eval") for eval(...), ("os", "system") for os.system(...), ("", "put") for
    a.b.put(...).
    """
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return (owner.id if isinstance(owner, ast.Name) else ""), node.func.attr
    return "", node.func.id if isinstance(node.func, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[ast.Call, tuple[str, str]]]:
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            yield node, called(node)


def module_of(path: Path) -> str:
    """ "agents.site.vault"; of a package's own file, "agents.site"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms_of(module: str) -> list[str]:
    """ "agents.site.vault", "agents.site" and "agents"."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def room_of(module: str) -> str:
    """The longest name that has arrows of its own."""
    return next(room for room in rooms_of(module) if room in ALLOWED)


MODULES = {module_of(path): path for path in every_module()}


@functools.cache
def own_imports(module: str) -> list[tuple[int, str]]:
    """(line, module) of every module of ours that one imports."""
    found = []
    for line, name in imports_of(MODULES[module]):
        owner = next((room for room in rooms_of(name) if room in MODULES), None)
        if owner is not None and owner != module:
            found.append((line, owner))
        elif name.split(".")[0] in NOT_PACKAGES:
            found.append((line, name))
    return found


def test_every_room_has_its_arrows() -> None:
    assert {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    } - NOT_PACKAGES == set(PACKAGES)
    inside = {
        module
        for module in MODULES
        if module.split(".")[0] in ("agents", "api", "flows")
    }
    without = {
        module for module in inside if "." in module and "." not in room_of(module)
    }
    assert without == set()
    assert set(ALLOWED) <= set(MODULES)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_its_arrows_allow(room: str) -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module in MODULES
        if room_of(module) == room
        for line, name in own_imports(module)
        if room_of(name) != room and not ALLOWED[room] & set(rooms_of(name))
    ]
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    graph = nx.DiGraph(
        (module, name) for module in MODULES for _, name in own_imports(module)
    )
    assert [
        sorted(circle)
        for circle in nx.strongly_connected_components(graph)
        if len(circle) > 1
    ] == []


def test_agents_and_api_never_import_each_other() -> None:
    reached = {
        room: {name.split(".")[0] for name in allowed}
        for room, allowed in ALLOWED.items()
    }
    for room, tops in reached.items():
        if room.split(".")[0] in ("agents", "tasks", "flows"):
            assert "api" not in tops
        if room.split(".")[0] == "api":
            assert not tops & {"agents", "tasks", "flows", "deployments"}


def test_the_two_sides_never_import_each_other() -> None:
    """Nothing of a hospital's runs at the coordinator, and nothing of the coordinator's
    at a hospital.
    """
    graph = nx.DiGraph(
        (module, name) for module in MODULES for _, name in own_imports(module)
    )
    for module in graph:
        reached = {
            ".".join(name.split(".")[:2]) for name in nx.descendants(graph, module)
        }
        if module.startswith(("tasks.coordinator", "flows.coordinator")):
            assert not any(
                name.startswith(("agents", "tasks.hospital", "flows.hospital"))
                for name in reached
            )
        if module.startswith(("agents", "tasks.hospital", "flows.hospital")):
            assert not any(
                name.startswith(("api", "tasks.coordinator", "flows.coordinator"))
                for name in reached
            )


def test_only_a_flow_s_process_imports_by_a_computed_name() -> None:
    """Everything else is an import that this test and every other tool sees."""
    computed = {
        name_of(path)
        for path in every_module()
        for node, (_, name) in calls(path)
        if name
        in ("import_module", "find_spec", "__import__", "set_forkserver_preload")
        if not (node.args and isinstance(node.args[0], ast.Constant))
    }
    assert computed == BY_COMPUTED_NAME


def test_the_api_calls_nothing_by_a_computed_name() -> None:
    """A store's method that is named by a string is seen by no tool, and its arguments
    are checked by none.
    """
    computed = [
        f"{name_of(path)}:{node.lineno} calls {name}"
        for path in modules("api")
        for node, (_, name) in calls(path)
        if name in ("getattr", "methodcaller", "attrgetter", "__getattribute__")
        if not isinstance(node.args[1 if name == "getattr" else 0], ast.Constant)
    ]
    assert computed == []


@pytest.mark.parametrize("reader", sorted(READERS))
def test_only_the_rooms_of_rows_and_of_the_store_read_tables(reader: str) -> None:
    reading = {
        name_of(path)
        for path in every_module()
        for _, module in imports_of(path)
        if module.split(".")[0] == reader
    }
    assert [
        path for path in sorted(reading) if not path.startswith(READERS[reader])
    ] == []


FRESH = """
import sys
import {module}
names = set(sys.modules)
tops = {{name.split(".")[0] for name in names}}
print(sorted(tops & set({tops!r})), sorted(name for name in names if name.startswith(tuple({rooms!r}))))
"""


def found_in_a_fresh_process(module: str, *, tops: list[str], rooms: list[str]) -> str:
    code = FRESH.format(module=module, tops=tops, rooms=rooms)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_coordinator_s_flows_bring_no_hospital_code_along() -> None:
    """Arrows on paper are one thing; this is what the memory of a process of its flow
    runs holds.
    """
    tops = ["agents", "api", "pandas", "duckdb", "sqlalchemy", "fastapi", "nicegui"]
    found = found_in_a_fresh_process(
        "flows.coordinator_runs", tops=tops, rooms=["tasks.hospital", "flows.hospital"]
    )
    assert found == "[] []"


def test_a_hospital_s_flows_bring_no_code_of_the_coordinator_along() -> None:
    tops = ["api", "nicegui", "alembic"]
    rooms = ["tasks.coordinator", "flows.coordinator"]
    assert (
        found_in_a_fresh_process("flows.hospital_runs", tops=tops, rooms=rooms)
        == "[] []"
    )


# The parts that are installed apart, of which no file is in two: wheels/parts.toml says
# which folders and files, and the longest path that fits counts.
PARTS = tomllib.loads((ROOT / "wheels" / "parts.toml").read_text("utf-8"))
REACHES = {part: {part, *entry["needs"]} for part, entry in PARTS.items()}


def part_of_file(name: str) -> str | None:
    longest, owner = "", None
    for part, entry in PARTS.items():
        for path in entry["paths"]:
            fits = name == path or name.startswith(f"{path}/")
            if fits and len(path) > len(longest):
                longest, owner = path, part
    return owner


def parts_of(path: Path) -> list[str]:
    owner = part_of_file(name_of(path))
    return [] if owner is None else [owner]


def test_every_file_is_in_one_installable_part() -> None:
    assert {
        name_of(path): parts_of(path)
        for path in every_module()
        if len(parts_of(path)) != 1
    } == {}


def test_a_part_needs_no_other_but_the_core() -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module, path in MODULES.items()
        for line, name in own_imports(module)
        if parts_of(MODULES[name])[0] not in REACHES[parts_of(path)[0]]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", sorted(PURE))
def test_mathematics_and_protocol_need_no_server_and_no_database(package: str) -> None:
    forbidden = {
        "prefect",
        "fastapi",
        "sqlalchemy",
        "duckdb",
        "uvicorn",
        "pandas",
        "subprocess",
        "socket",
    }
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules(package)
        for line, module in imports_of(path)
        if module.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_analytics_has_no_clock_and_no_secret() -> None:
    forbidden = {
        "os",
        "time",
        "datetime",
        "secrets",
        "random",
        "pathlib",
        "io",
        "httpx",
        "cryptography",
        "logging",
    }
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules("analytics")
        for line, module in imports_of(path)
        if module.split(".")[0] in forbidden
    ]
    assert wrong == []


# Nothing that turns bytes or text into code


def test_nothing_unpickles() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for path in every_module()
        for line, module in imports_of(path)
        if UNSAFE_MODULES & set(module.split("."))
    ]
    assert wrong == []


def test_arrays_are_loaded_and_saved_without_pickle() -> None:
    wrong = []
    for path in every_module():
        for node, (owner, name) in calls(path):
            if (owner, name) in (
                ("np", "load"),
                ("np", "save"),
                ("np", "savez"),
                ("np", "savez_compressed"),
            ):
                said = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                if not (
                    said
                    and isinstance(said[0], ast.Constant)
                    and said[0].value is False
                ):
                    wrong.append(
                        f"{name_of(path)}:{node.lineno} {owner}.{name} without allow_pickle=False"
                    )
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
    """Python's and numpy's generators can be predicted from their output."""
    wrong = [
        f"{name_of(path)}:{node.lineno} calls {owner}.{name}"
        for package in ("protocol", "agents", "tasks", "flows", "api")
        for path in modules(package)
        for node, (owner, name) in calls(path)
        if owner == "random" or name == "default_rng"
    ]
    assert wrong == []


# One door


def users_of(function: str) -> set[str]:
    return {
        name_of(path)
        for path in every_module()
        for _, (_, name) in calls(path)
        if name == function
    }


def test_only_the_release_door_writes_envelopes() -> None:
    assert users_of("write_envelope") == {"agents/order/release.py"}


def test_only_the_release_door_seals_what_leaves_a_hospital() -> None:
    """The other user is the coordinator's side: SQL texts, sealed to each hospital by
    protocol.messages.agreement.
    """
    assert users_of("seal_to") == {
        "agents/order/release.py",
        "protocol/messages/agreement.py",
    }
    assert {name_of(p) for p in every_module() if "seal_to" in p.read_text("utf-8")} - {
        "protocol/sealing.py"
    } == {
        "agents/order/release.py",
        "protocol/messages/agreement.py",
    }


def test_only_the_release_door_puts_a_hospital_s_messages() -> None:
    """`exchange.put` and `hold` elsewhere: the coordinator's own steps, and the one-process
    federation's stand-in for the API.
    """
    putting = {
        name_of(path)
        for path in every_module()
        for node, (owner, name) in calls(path)
        if name in ("put", "hold", "put_together")
        and (
            owner in ("exchange", "transport")
            or owner_name(node) in ("exchange", "transport")
        )
    }
    assert putting == {
        "agents/order/release.py",
        "protocol/exchange/party.py",
        "tasks/coordinator/training.py",
        "tasks/coordinator/cells.py",
        "tasks/coordinator/dealt.py",
        "tasks/coordinator/statistics.py",
        "tasks/coordinator/scoring.py",
        "deployments/local/one_process.py",
    }


def owner_name(node: ast.Call) -> str:
    """The last part of what a method belongs to: "exchange" for self.exchange.put(...)."""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return owner.attr if isinstance(owner, ast.Attribute) else ""


def test_nothing_is_signed_but_envelopes_answers_and_what_people_decide() -> None:
    assert {
        name_of(p)
        for p in every_module()
        for n, (_, name) in calls(p)
        if name == "sign" and n.args
    } == {
        "agents/order/approval.py",
        "protocol/messages/envelope.py",
        "protocol/readers.py",
        "protocol/sealing.py",
    }


# Who asks Prefect


def test_in_the_api_only_its_own_modules_ask_prefect() -> None:
    asking = {
        name_of(path)
        for path in modules("api")
        for _, module in imports_of(path)
        if module.split(".")[0] == "prefect"
    }
    assert asking == {
        "api/due_times.py",
        "api/prefect_deletion.py",
        "api/prefect_parts.py",
        "api/prefect_runs.py",
    }


def test_a_federation_in_one_process_needs_no_prefect() -> None:
    """Nor what else takes long to import: simulations start at once."""
    heavy = "{'prefect', 'fastapi', 'nicegui', 'sklearn', 'scipy', 'networkx', 'matplotlib'}"
    code = f"import sys, deployments.local.one_process; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
