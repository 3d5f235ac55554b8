"""One file with which an agent is installed where no registry is reached: its wheels
and those of everything that it needs, for one Python.

A version is a folder of its own beside the others, and `current` names the one that
runs: `deployments.agent.upgrading` says how another one takes its place
(decision 121).
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

_PLATFORM = re.compile(r"manylinux_(\d+)_(\d+)_")
# Names that say which C library a wheel needs in another way.
_OLDER = {
    "manylinux1": (2, 5),
    "manylinux2010": (2, 12),
    "manylinux2014": (2, 17),
}

INSTALL = """\
#!/bin/sh
# sh install.sh FOLDER [SIGNERS]: installs the agent of this bundle into FOLDER/@VERSION@, a new environment, by the
# files beside this script alone; FOLDER/current is the version that runs. SIGNERS is a file of allowed signers
# (RELEASING.md), kept for upgrades; without it nothing is told of who made the bundle: check its signature yourself.
# EXTRAS="sqlserver oracle" before it installs these drivers, too, and FOLDER/extras keeps that for upgrades.
set -eu; umask 022; export PIP_CONFIG_FILE=/dev/null
[ $# -ge 1 ] || { echo "usage: sh install.sh FOLDER [SIGNERS]" >&2; exit 2; }
case $1 in /*) home=$1 ;; *) home=$PWD/$1 ;; esac
signers=${2:-}; case $signers in ''|/*) ;; *) signers=$PWD/$signers ;; esac
cd "$(dirname "$0")"
python=${PYTHON:-python@PYTHON@} into=$home/@VERSION@ unfinished=$home/.@VERSION@.unfinished
end() { echo "$*" >&2; exit 1; }
[ ! -e "$into" ] || [ -e "$unfinished" ] || end "$into exists already: go on with it, or give another folder."
# -I: no Python looks into this folder, where more may lie than was signed.
"$python" -I -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "@PYTHON@")' ||
  end "This bundle is for Python @PYTHON@; name one by PYTHON=/path/to/it, or take the bundle of yours."
libc=$("$python" -I -c 'import platform; print(platform.libc_ver()[1] or 0)')
[ "$(printf '%s\\n' @GLIBC@ "$libc" | sort -V | head -n 1)" = @GLIBC@ ] ||
  end "This machine has glibc $libc, and this bundle needs @GLIBC@ or newer: use a newer system."
[ -z "$signers" ] || [ -r "$signers" ] ||
  end "$signers is not there: write the release's key into it, one line: release ssh-ed25519 AAAA..."
[ -z "$signers" ] || ssh-keygen -Y verify -n consilium-release -I release -f "$signers" -s SHA256SUMS.sig <SHA256SUMS ||
  end "There is no key of $signers behind this bundle: fetch it again; never install it like this."
sha256sum --quiet --strict --check SHA256SUMS || end "A file is not what SHA256SUMS says: fetch it again."
[ "$(find . ! -type d ! -path ./SHA256SUMS ! -path ./SHA256SUMS.sig | wc -l)" -eq "$(wc -l < SHA256SUMS)" ] ||
  end "Here are other files than SHA256SUMS lists: unpack the bundle into a folder of its own, or fetch it again."
echo "Installing into $into: a few minutes, without a word." >&2
mkdir -p "$home"; : > "$unfinished"
"$python" -I -m venv --clear "$into"
pip="$into/bin/python -I -m pip --isolated --disable-pip-version-check install --quiet --no-index --no-cache-dir"
[ -z "${EXTRAS:-}" ] || echo "$EXTRAS" > "$home/extras"
for extra in "" $(cat "$home/extras" 2>/dev/null); do
  $pip --find-links wheels --require-hashes --requirement "requirements${extra:+-$extra}.txt"
done
$pip --no-deps wheels/consilium_*.whl
cp SHA256SUMS "$into/SHA256SUMS"
[ -z "$signers" ] || [ -e "$home/allowed_signers" ] || cp "$signers" "$home/allowed_signers"
sync -f "$into"; rm "$unfinished"
[ -e "$home/current" ] || ln -sfn @VERSION@ "$home/current"
echo "Installed: $into; $home/current is $(readlink "$home/current")" >&2
"""


def glibc_of(names: Iterable[str]) -> tuple[int, int]:
    """The least glibc that all of these wheels take, by their names; (2, 17) where none
    asks for more.
    """
    needed_glibc = (2, 17)
    for wheel_name in names:
        tags = wheel_name.removesuffix(".whl").split("-")
        platforms = tags[-1].split(".")
        versions = []
        for platform in platforms:
            version = _needed(platform)
            if version is not None:
                versions.append(version)
        if versions:
            # A wheel of several names takes the oldest of them.
            needed_glibc = max(needed_glibc, min(versions))
    return needed_glibc


def _needed(platform: str) -> tuple[int, int] | None:
    match = _PLATFORM.match(platform)
    if match is not None:
        major = int(match[1])
        minor = int(match[2])
        return major, minor
    older_name = platform.split("_")[0]
    return _OLDER.get(older_name)


def describe(
    folder: Path,
    *,
    version: str,
    commit: str,
    python: str,
    machine: str,
) -> None:
    """Writes manifest.json and install.sh beside the wheels."""
    wheels = folder / "wheels"
    major, minor = glibc_of(wheel.name for wheel in wheels.iterdir())
    glibc = f"{major}.{minor}"
    manifest_fields = {
        "part": "agent",
        "version": version,
        "commit": commit,
        "python": python,
        "machine": machine,
        "glibc": glibc,
    }
    manifest = json.dumps(manifest_fields, indent=2) + "\n"
    (folder / "manifest.json").write_text(manifest)
    script = INSTALL.replace("@PYTHON@", python)
    script = script.replace("@GLIBC@", glibc)
    script = script.replace("@VERSION@", version)
    (folder / "install.sh").write_text(script)


def pack(
    folder: Path,
    target: Path,
    *,
    seconds: int,
) -> None:
    """A tar of a folder, whose bytes depend on names, contents and `seconds` alone."""
    paths = [file_path for file_path in folder.rglob("*") if file_path.is_file()]
    with tarfile.open(
        target,
        "w",
        format=tarfile.GNU_FORMAT,
    ) as archive:
        # rglob's order is the disk's, and owner and mode would be the maker's: an entry
        # is made here, so that everybody's release is the same bytes.
        for file_path in sorted(paths):
            inner_path = file_path.relative_to(folder).as_posix()
            tar_entry = tarfile.TarInfo(f"{folder.name}/{inner_path}")
            tar_entry.size = file_path.stat().st_size
            tar_entry.mtime = seconds
            tar_entry.mode = 0o644
            with file_path.open("rb") as file:
                archive.addfile(tar_entry, file)
