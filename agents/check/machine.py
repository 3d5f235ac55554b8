"""What of the machine under an agent has kept others from starting: Python, the C
library, and files that hold a password.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agents.check.findings import OK, WARN, WRONG, Finding
from agents.site.settings import SiteSettings

TRIED_PYTHONS = ((3, 11), (3, 12), (3, 13))
LEAST_GLIBC = (2, 34)
"""What a bundle's packages ask for (RELEASING.md)."""


def check_machine() -> Iterator[Finding]:
    """Of this process: the Python that runs it and the library under that."""
    yield python_finding(sys.version_info[:2])
    yield glibc_finding(*platform.libc_ver())


def python_finding(version: tuple[int, int]) -> Finding:
    version_text = f"{version[0]}.{version[1]}"
    if version in TRIED_PYTHONS:
        return Finding("python", OK, f"Python {version_text}.")
    tried = ", ".join(f"{major}.{minor}" for major, minor in TRIED_PYTHONS)
    sentence = f"This is Python {version_text}, for which no release is made."
    return Finding("python", WARN, sentence, f"Use one of {tried}.")


def glibc_finding(library: str, version: str) -> Finding:
    components = version.split(".")
    version_numbers = tuple(
        int(component) for component in components[:2] if component.isdigit()
    )
    if library != "glibc" or len(version_numbers) < 2:
        sentence = "This system has another C library than glibc, or does not tell its version."
        remedy = "Bundles need glibc 2.34 or newer: use such a system if packages cannot be installed."
        return Finding("glibc", WARN, sentence, remedy)
    if version_numbers < LEAST_GLIBC:
        sentence = (
            f"This system has glibc {version}, and a bundle's packages need 2.34."
        )
        remedy = "Upgrade the system (Debian 12, RHEL 9, Ubuntu 22.04) before the next upgrade of the agent."
        return Finding("glibc", WARN, sentence, remedy)
    return Finding("glibc", OK, f"glibc {version}.")


def check_passwords(settings: SiteSettings) -> Iterator[Finding]:
    """settings.toml is its owner's alone where an address in it has a password."""
    settings_path = settings.site / "settings.toml"
    addresses = (settings.data_url, settings.predictions_url, settings.proxy)
    has_password = any(_has_password(address) for address in addresses if address)
    if has_password and settings_path.stat().st_mode & 0o077:
        sentence = f"{settings_path} holds a password and can be read by others."
        yield Finding("settings", WRONG, sentence, f"Run: chmod go= {settings_path}")


def check_writers(settings: SiteSettings) -> Iterator[Finding]:
    """Nobody else may write what says whom this hospital trusts, and what it allows."""
    paths = [settings.site, settings.site / "settings.toml", settings.policy]
    if settings.ca_file is not None:
        paths.append(Path(settings.ca_file))
    for path in paths:
        if path.exists() and path.stat().st_mode & 0o002:
            sentence = f"{path} can be written by every user of this machine."
            yield Finding("settings", WRONG, sentence, f"Run: chmod o-w {path}")


def _has_password(address: str) -> bool:
    try:
        return bool(urlsplit(address).password)
    except ValueError:
        return False
