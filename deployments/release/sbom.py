"""What is in a bundle, as a CycloneDX 1.5 document: each package with its version, the
digest of the very file that is installed, and its licence.

It says no more than the wheels do: which package asked for which stands in the lock.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

from deployments.signed_files import digest_of

# Never changed: the same bundle has the same serial number whoever makes it.
_NAMES = uuid.UUID("6f1c2f5e-1d2b-5c61-9a3b-8f0f6d1f7c11")


def bill_of_materials(
    wheels: list[Path], *, name: str, version: str, commit: str, seconds: int
) -> str:
    """The document; the same wheels, commit and time give the same bytes."""
    components = [_component(wheel) for wheel in sorted(wheels)]
    serial = uuid.uuid5(_NAMES, f"{name} {version} {commit}")
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(seconds, UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": version,
            },
        },
        "components": components,
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _component(wheel: Path) -> dict[str, Any]:
    metadata = metadata_of(wheel)
    package_name = metadata["Name"].lower().replace("_", "-").replace(".", "-")
    address = f"pkg:pypi/{package_name}@{metadata['Version']}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": address,
        "name": metadata["Name"],
        "version": metadata["Version"],
        "purl": address,
        "hashes": [{"alg": "SHA-256", "content": digest_of(wheel)}],
    }
    # Only this: the older field License is free text, which no expression may be.
    expression = metadata["License-Expression"]
    if expression:
        component["licenses"] = [{"expression": expression}]
    return component


def metadata_of(wheel: Path) -> Message:
    """What a wheel says about itself."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata_name,) = [
            name
            for name in archive.namelist()
            # At the top alone: a package may hold others, with metadata of their own.
            if name.endswith(".dist-info/METADATA") and name.count("/") == 1
        ]
        return Parser().parsestr(archive.read(metadata_name).decode("utf-8"))
