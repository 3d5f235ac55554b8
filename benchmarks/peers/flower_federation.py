"""The same training with Flower's deployment engine, twice: the job on stdin, what came
of it as JSON on stdout.

Runs in the environment of requirements.txt, with nothing of Consilium: a SuperLink and
a SuperNode for each hospital as processes, with --insecure as Flower's guide starts
them on one machine, and `flwr run` for each order. SuperNodes dial the relay, which
counts what goes to and from the SuperLink. Everything has started when every SuperNode
has said its number.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from relay import (
    HERE,
    Relay,
    free_port,
)  # beside this script; nothing else of ours is here

Job = dict[str, Any]
START_SECONDS, STOP_SECONDS = 120.0, 10.0
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "bench"
version = "1"
dependencies = []
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "bench.flower_deployed:server"
clientapp = "bench.flower_deployed:client"
[tool.flwr.app.config]
job = ""
answer = ""
"""


def main() -> None:
    """Starts, orders twice, answers, and leaves nothing running."""
    job = json.load(sys.stdin)
    folder_of_programs = Path(sys.executable).parent
    os.environ["PATH"] = f"{folder_of_programs}:{os.environ['PATH']}"  # as if activated
    folder, port = Path(job["folder"]), free_port()
    _make_app(folder / "app")
    _make_connection(Path(os.environ["FLWR_HOME"]), port)
    (folder / "job.json").write_text(json.dumps(job))
    link = ["flower-superlink", "--insecure", "--host", HERE, "--port", str(port)]
    link.append("--disable-runtime-dependency-installation")
    with contextlib.ExitStack() as parts:
        relay = parts.enter_context(Relay(port))
        parts.enter_context(_started(link, folder / "link.log", "Uvicorn running"))
        for number, table in enumerate(job["tables"]):
            node = ["flower-supernode", "--insecure", "--port", str(free_port())]
            node += ["--superlink", f"{HERE}:{relay.port}"]
            node += ["--node-config", f"table={json.dumps(table)}"]
            log = folder / f"node-{number}.log"
            parts.enter_context(_started(node, log, "SuperNode ID"))
        answer = _order_twice(folder, relay)
    print(json.dumps(answer), flush=True)


def _order_twice(folder: Path, relay: Relay) -> dict[str, Any]:
    submitted, before = time.time(), relay.n_bytes
    answer = _order(folder, "first")
    finished, n_bytes = time.time(), relay.n_bytes - before
    _order(folder, "second")
    return {
        **answer,
        "submitted": submitted,
        "finished": finished,
        "again": time.time() - finished,
        "n_bytes": n_bytes,
    }


def _order(folder: Path, name: str) -> dict[str, Any]:
    """Sends an order and follows its log to the end, as its user would."""
    answer = folder / f"{name}.json"
    config = (
        f"job={json.dumps(str(folder / 'job.json'))} answer={json.dumps(str(answer))}"
    )
    command = ["flwr", "run", str(folder / "app"), "bench", "--stream"]
    subprocess.run([*command, "--run-config", config], check=True, stdout=sys.stderr)
    return dict(json.loads(answer.read_text()))


@contextlib.contextmanager
def _started(command: list[str], log: Path, ready: str) -> Iterator[None]:
    """A part and its children, in a process group that ends with the block; begins when
    it has said that it is ready.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    is_ready = threading.Event()
    watcher = (process.stdout, log, ready, is_ready)
    threading.Thread(target=_watch, args=watcher, daemon=True).start()
    try:
        if not is_ready.wait(START_SECONDS):
            raise SystemExit(f"{command[0]}: {log.read_text()[-1000:]}")
        yield
    finally:
        _end(process)


def _watch(said: IO[bytes], log: Path, ready: str, is_ready: threading.Event) -> None:
    """Keeps all that a part says, to its end."""
    with log.open("wb", buffering=0) as file:
        # A pipe that nobody reads is full one day, and its writer stands still.
        for line in said:
            file.write(line)
            if ready in line.decode(errors="replace"):
                is_ready.set()


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _make_app(app: Path) -> None:
    package = app / "bench"
    package.mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").touch()
    for name in ("flower_app.py", "flower_deployed.py"):
        shutil.copy(Path(__file__).with_name(name), package)


def _make_connection(home: Path, port: int) -> None:
    home.mkdir(parents=True, exist_ok=True)
    lines = ("[superlink.bench]", f'address = "{HERE}:{port}"', "insecure = true", "")
    (home / "config.toml").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
