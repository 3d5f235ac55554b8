"""`consilium-agent upgrade`: another version takes the place of the one that runs, or the
one before comes back.

A folder holds an environment for each version, `current` is a link to the one that
runs, and a unit starts the agent through it. A new version is made whole beside the
others and looked at by its own `check`; then the link is replaced by one rename. Who is
killed before that has the old version, who is killed after it the new one. Decision 121.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.agent.bundles import UNTOUCHED, Manifest, read_manifest, unpack
from deployments.signed_files import SUMS
from protocol.errors import BadRequest, Conflict, Refused
from protocol.machine.disk import sync, write_durably
from protocol.machine.installed import python_here
from protocol.versions import is_older, numbers_of

CURRENT = "current"
SIGNERS = "allowed_signers"
BEFORE = "before"
"""In a version's folder: the version that ran when this one took its place."""
TIMES_ITS_SIZE = 5
"""Of room on the disk that a bundle needs: unpacked once, installed four times as
large."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One upgrade: where, from which file, for which site, and who is trusted."""

    home: Path
    bundle: Path
    site: Path
    # User and group of the site's state: `check` runs as these where we are root.
    owner: tuple[int, int]
    signers: Path
    is_older_meant: bool


# Where versions stand


def home_of(prefix: Path) -> Path:
    """The folder of all versions, of the environment of this process; Conflict where it
    stands in none.
    """
    # Through `current` too: resolved, it is the folder of the version itself.
    home = prefix.resolve().parent
    if (home / CURRENT).is_symlink():
        return home
    raise Conflict(
        "This agent does not stand in a folder of versions, as a bundle's install.sh makes one.",
        remedy="Install the bundle by its install.sh into a new folder, and start the agent by FOLDER/current; a"
        " checkout is upgraded by git.",
        code="upgrade",
    )


def program_of(prefix: Path) -> Path:
    """What a unit starts: through `current` where this environment stands in a folder of
    versions.
    """
    beside = prefix.resolve().parent / CURRENT
    stands_there = beside.is_symlink() and beside.resolve().parent == beside.parent
    return (beside if stands_there else prefix) / "bin" / "consilium-agent"


def running_version(home: Path) -> str:
    """The version that `current` names."""
    version = os.readlink(home / CURRENT)
    # A link that leads out of this folder names none.
    if numbers_of(version) is None or not (home / version).is_dir():
        raise Conflict(
            f"{home / CURRENT} names no version beside it.",
            remedy=f"Make it a link to one: ln -sfn VERSION {home / CURRENT}",
            code="upgrade",
        )
    return version


def is_whole(home: Path, version: str) -> bool:
    """Whether its installation came to its end: install.sh removes its mark last."""
    unfinished = home / f".{version}.unfinished"
    return (home / version).is_dir() and not unfinished.exists()


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[int]:
    """One upgrade at a time. The lock's descriptor goes to what is started: it is held
    until that has ended too, also where this process is killed.
    """
    # The kernel gives it back with the last process that has it: a crash leaves none.
    descriptor = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"Another upgrade is at work in {home}.",
            remedy="Wait for its end.",
            code="upgrade",
        ) from None
    try:
        # What a killed one has left.
        for leftover in home.glob(".bundle-*"):
            shutil.rmtree(leftover)
        yield descriptor
    finally:
        os.close(descriptor)


def _switch(home: Path, version: str) -> None:
    """From one moment to the next; on disk when this returns."""
    # A link cannot be made over another, and between removing and making there would be
    # none to start the agent by: so it is renamed.
    new = home / f".{CURRENT}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(version)
    new.replace(home / CURRENT)
    sync(home)


# Forward


def upgrade(change: Change, say: Say) -> None:
    """Installs a bundle beside what runs, checks it, and lets it run from the agent's
    next start on.

    BadRequest (codes bundle, signature) for a file that is no bundle or signers that
    are none; Refused (bundle, signature, upgrade) for a bundle that was altered, is
    signed by nobody known, is older or of another machine, and where `check` finds more
    wrong with it. `current` is as before then.
    """
    home = change.home
    with _alone(home) as lock:
        # Under the lock: another upgrade may have switched a moment ago.
        running = running_version(home)
        # Below home: who has the lock next finds there what a killed one has left.
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=home) as folder_name:
            folder = Path(folder_name)
            unpack(change.bundle, folder, change.signers)
            say(f"The signature is by a key of {change.signers}.")
            manifest = read_manifest(folder)
            say(
                f"The bundle is version {manifest.version} (commit {manifest.commit[:12]}) for Python"
                f" {manifest.python}; each file is as its {SUMS} says."
            )
            _require_machine(manifest)
            _require_newer(manifest.version, running, is_meant=change.is_older_meant)
            if manifest.version == running:
                _require_same(home, running, folder)
                say(f"{running} is what runs here already. {UNTOUCHED}")
                return
            if is_whole(home, manifest.version):
                _require_same(home, manifest.version, folder)
                say(f"It is installed already: {home / manifest.version}.")
            else:
                _install(folder, home, manifest.version, lock)
                say(f"Installed: {home / manifest.version}.")
        _check_both(change, running, manifest.version, lock, say)
        # Before the switch: who dies between the two has a note that nobody reads yet;
        # the other way round, there would be no way back.
        write_durably(home / manifest.version / BEFORE, running.encode())
        _switch(home, manifest.version)
        _say_switched(home, running, manifest.version, say)


def _say_switched(home: Path, old: str, new: str, say: Say) -> None:
    say(f"Switched: {home / CURRENT} is {new}, and was {old}.")
    say(
        "An agent that runs goes on as it is. Restart it: systemctl restart consilium-agent"
    )


def _require_machine(manifest: Manifest) -> None:
    """Of glibc install.sh says what is too old."""
    python = python_here()
    if (manifest.python, manifest.machine) == (python, platform.machine()):
        return
    raise Refused(
        f"This bundle is for Python {manifest.python} on {manifest.machine}, and this agent runs on Python {python} on"
        f" {platform.machine()}.",
        remedy=f"Take the bundle of {manifest.version} for Python {python}; for another Python, install it by its"
        f" install.sh into a new folder. {UNTOUCHED}",
        code="upgrade",
    )


def _require_newer(version: str, running: str, *, is_meant: bool) -> None:
    if is_meant or not is_older(version, running):
        return
    raise Refused(
        f"This bundle is version {version}, older than {running}, which runs here.",
        remedy="To go back to the version that ran before: consilium-agent upgrade --back. If this bundle is meant, add"
        f" --older: what {running} has written may not be readable to it. {UNTOUCHED}",
        code="upgrade",
    )


def _require_same(home: Path, version: str, folder: Path) -> None:
    """A version that is there is of this very bundle."""
    installed_sums = home / version / SUMS
    if (
        installed_sums.is_file()
        and installed_sums.read_bytes() == (folder / SUMS).read_bytes()
    ):
        return
    raise Refused(
        f"{home / version} was installed from another bundle of that version.",
        remedy="Ask the release's maker why there are two. To take this one, stop the agent, let another version be"
        f" current, and remove that folder. {UNTOUCHED}",
        code="upgrade",
    )


def _install(folder: Path, home: Path, version: str, lock: int) -> None:
    """By the bundle's own script, which makes a folder that it has not finished anew."""
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    # Asked first: a disk that is filled by this may be the one the agent writes to.
    if shutil.disk_usage(home).free < TIMES_ITS_SIZE * n_bytes:
        mebibytes = TIMES_ITS_SIZE * n_bytes // 2**20
        raise Refused(
            f"There is no room for another version below {home}: it takes about {mebibytes} MiB.",
            remedy=f"Make room there; versions that are neither current nor the one before may go. {UNTOUCHED}",
            code="upgrade",
        )
    process = subprocess.run(
        # By sh: nothing that was unpacked has the right to be run.
        ["sh", str(folder / "install.sh"), str(home)],
        env={**_environment(), "PYTHON": sys.executable},
        pass_fds=(lock,),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode or not is_whole(home, version):
        last_lines = process.stderr.strip().splitlines()[-1:] or ["no reason is given"]
        raise Refused(
            f"{version} cannot be installed: {last_lines[0]}",
            remedy=f"{running_version(home)} runs as before; once the cause is gone, run this again.",
            code="upgrade",
        )


def _environment() -> dict[str, str]:
    """Nothing of what would let Python or pip take other files than the bundle's."""
    left_out = ("PYTHON", "PIP_", "VIRTUAL_ENV")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(left_out)
    }


# What the new version finds


def _check_both(change: Change, old: str, new: str, lock: int, say: Say) -> None:
    """Refused where the new version finds wrong what the old one does not.

    The versions of others do not count: somebody has to be the first.
    """
    new_findings = _findings(change, new, lock)
    if new_findings is None:
        raise Refused(
            f"{new} does not run here: its `check` gives no answer.",
            remedy=f"{old} runs as before. Run {change.home / new}/bin/consilium-agent check --site {change.site}, and"
            " read what it says.",
            code="upgrade",
        )
    for finding in new_findings:
        if finding["state"] != "ok":
            say(
                f"{finding['state']:5}  {finding['check']}  {finding['sentence']} {finding['remedy']}"
            )
    wrong = _wrong(new_findings)
    old_findings = _findings(change, old, lock)
    # Where the old one gives no answer, nothing can be worse.
    known_wrong = wrong if old_findings is None else _wrong(old_findings)
    if wrong - known_wrong:
        raise Refused(
            f"With {new}, `check` finds wrong what it does not with {old}: {', '.join(sorted(wrong - known_wrong))}.",
            remedy=f"Follow these lines, then run this again; {old} runs as before.",
            code="upgrade",
        )


def _wrong(findings: list[dict[str, str]]) -> set[str]:
    wrong = {finding["check"] for finding in findings if finding["state"] == "wrong"}
    return wrong - {"version"}


def _findings(change: Change, version: str, lock: int) -> list[dict[str, str]] | None:
    """What `check` of a version says of the site; None where it does not answer."""
    program = change.home / version / "bin" / "consilium-agent"
    command = [str(program), "check", "--json", "--site", str(change.site)]
    as_owner: dict[str, Any] = {}
    user, group = change.owner
    # Root could read what the agent cannot, and the new version's code would be root's.
    if os.geteuid() == 0 and user != 0:
        # No groups: without this the process would keep those of root.
        as_owner = {"user": user, "group": group, "extra_groups": []}
    try:
        process = subprocess.run(
            command,
            # That user may not be allowed into the folder in which root stands.
            cwd=change.home,
            env=_environment(),
            pass_fds=(lock,),
            capture_output=True,
            check=False,
            **as_owner,
        )
        findings: list[dict[str, str]] = json.loads(process.stdout)
        # Another version answers, maybe in another form.
        is_read = all(
            {"check", "state", "sentence", "remedy"} <= set(finding)
            for finding in findings
        )
    except (OSError, ValueError, TypeError):
        return None
    return findings if is_read else None


# Back


def go_back(home: Path, say: Say) -> None:
    """The version that ran before runs from the agent's next start on.

    Conflict (code upgrade) where there is none, or its folder is gone.
    """
    with _alone(home):
        running = running_version(home)
        # The first version has no such note; a folder may be gone, to make room.
        with contextlib.suppress(OSError):
            previous = (home / running / BEFORE).read_text("ascii")
            if numbers_of(previous) is not None and is_whole(home, previous):
                _switch(home, previous)
                _say_switched(home, running, previous, say)
                return
    raise Conflict(
        f"No version that ran before {running} is here.",
        remedy="Give its bundle: consilium-agent upgrade --bundle FILE --older.",
        code="upgrade",
    )


def change_of(
    prefix: Path,
    bundle: Path,
    *,
    site: Path,
    state: Path,
    signers: Path | None,
    is_older_meant: bool,
) -> Change:
    """What a person has asked for, for the agent in the environment `prefix`."""
    home = home_of(prefix)
    if not os.access(home, os.W_OK):
        raise BadRequest(
            f"This user may not write into {home}.",
            remedy="Run the upgrade as the user who installed it, root as a rule.",
            code="upgrade",
        )
    folder = state if state.is_dir() else site
    owner = folder.stat()
    return Change(
        home,
        bundle.absolute(),
        site.absolute(),
        (owner.st_uid, owner.st_gid),
        signers or home / SIGNERS,
        is_older_meant,
    )
