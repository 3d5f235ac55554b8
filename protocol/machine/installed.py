"""What of Consilium is installed in this environment, and whether it may stand
together.

A checkout is not installed: there `./run` installs what each part needs. Decision 99.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import distributions

from protocol.errors import Conflict

_APART = (
    (
        "consilium-agent",
        "consilium-server",
        "An agent runs at a hospital and a server at the coordinator, with other packages.",
    ),
    (
        "prefect-client",
        "prefect",
        "Both packages write the same files; what the later one wrote is what runs.",
    ),
)
"""Two packages that stand in environments of their own, and why."""


def is_installed(package: str, *, path: Sequence[str] | None = None) -> bool:
    """Whether a package stands in this environment, or in these folders."""
    where = list(sys.path if path is None else path)
    return any(True for _ in distributions(name=package, path=where))


def require_own_environment(*, path: Sequence[str] | None = None) -> None:
    """Conflict (code environment) where an agent and a server share this environment."""
    for package, other_package, why in _APART:
        if is_installed(package, path=path) and is_installed(other_package, path=path):
            raise Conflict(
                f"{package} and {other_package} are installed in one environment. {why}",
                remedy="Make a new environment (python3 -m venv FOLDER) and install only one of the two there, by its"
                " own list of requirements.",
                code="environment",
            )


def python_here() -> str:
    """Of this process, as a bundle names it: 3.11 or the like."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def command_of(part: str) -> str:
    """How people start a part here: by the command of its package, or from a
    checkout.
    """
    if is_installed(f"consilium-{part}"):
        return f"consilium-{part}"
    return f"./run {part}"
