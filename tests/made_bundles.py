"""Bundles of an agent that is a script of three lines: signed, packed and laid out as
real ones are, and installed in milliseconds.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.release.bundle import pack
from deployments.signed_files import sign_sums, write_sums

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
FINE = [{"check": "settings", "state": "ok", "sentence": "Fine.", "remedy": ""}]
INSTALL = """\
set -eu
home=$1
cd "$(dirname "$0")"
into=$home/@VERSION@
: > "$home/.@VERSION@.unfinished"
rm -rf "$into"
mkdir -p "$into/bin"
cp findings.json "$into/findings.json"
if [ -e waits ]; then read -r _ < "$home/gate"; fi
program=$into/bin/consilium-agent
printf '#!/bin/sh\\necho @VERSION@ $(id -u) >> "%s/checked"\\ncat "%s/findings.json"\\n' "$home" "$into" > "$program"
chmod +x "$program"
cp SHA256SUMS "$into/SHA256SUMS"
rm "$home/.@VERSION@.unfinished"
[ -e "$home/current" ] || ln -s @VERSION@ "$home/current"
"""


@dataclass(frozen=True)
class Maker:
    """Who makes bundles in a folder, and by which key."""

    folder: Path
    key: Path

    def bundle(
        self,
        version: str,
        *,
        findings: Any = None,
        python: str = PYTHON,
        part: str = "agent",
        waits: bool = False,
        name: str = "",
    ) -> Path:
        """One tar; the folder that was packed stays beside it."""
        unpacked = self.folder / (name or f"consilium-agent-{version}-py{python}")
        (unpacked / "wheels").mkdir(parents=True)
        words = {
            "part": part,
            "version": version,
            "commit": "c0ffee" * 6,
            "python": python,
            "machine": platform.machine(),
        }
        (unpacked / "manifest.json").write_text(json.dumps(words))
        (unpacked / "install.sh").write_text(INSTALL.replace("@VERSION@", version))
        (unpacked / "findings.json").write_text(json.dumps(findings or FINE))
        (unpacked / "wheels" / "one-1.0-py3-none-any.whl").write_bytes(b"one" * 1000)
        if waits:
            (unpacked / "waits").touch()
        write_sums(unpacked)
        sign_sums(unpacked, self.key)
        return self.packed(unpacked)

    def packed(self, unpacked: Path) -> Path:
        """Again, once something in the folder is another."""
        tar = unpacked.with_name(f"{unpacked.name}.tar")
        pack(unpacked, tar, seconds=0)
        return tar

    def copy_of(self, bundle: Path, name: str) -> Path:
        """A bundle's folder, to be altered and packed again."""
        copied = self.folder / name
        shutil.copytree(bundle.with_suffix(""), copied)
        return copied


def installed(bundle: Path, home: Path) -> Path:
    """A first installation."""
    home.mkdir()
    script = str(bundle.with_suffix("") / "install.sh")
    subprocess.run(["sh", script, str(home)], check=True)
    return home
