"""Files that are handed on: their digests in SHA256SUMS, signed by whoever made them.

The signature is OpenSSH's: `ssh-keygen -Y verify` checks it on any machine, with a file
of the signers that somebody there trusts. Decision 100.
"""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from protocol.errors import BadRequest, Refused

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
NAMESPACE = "consilium-release"
"""A signature that the same key made for something else is none of a release."""
SIGNER = "release"
"""The name before the key in a file of allowed signers."""
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._+/-]*)")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """SHA256SUMS of every file below a folder but itself and its signature, as
    `sha256sum -c` reads it.
    """
    lines = [f"{digest_of(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines))


def _names(folder: Path) -> list[str]:
    files = [file_path for file_path in folder.rglob("*") if file_path.is_file()]
    file_names = {file_path.relative_to(folder).as_posix() for file_path in files}
    return sorted(file_names - {SUMS, SIGNATURE})


def check_sums(folder: Path) -> None:
    """Refused (code bundle) unless a folder has exactly the files of its SHA256SUMS."""
    try:
        sum_lines = (folder / SUMS).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise _refused(f"It has no readable {SUMS}.") from None
    listed_digests = {}
    for sum_line in sum_lines:
        match = _LINE.fullmatch(sum_line)
        if match is None or ".." in match[2]:
            raise _refused(f"A line of {SUMS} is none.")
        listed_digests[match[2]] = match[1]
    present = _names(folder)
    # Also what is there and not listed: pip would take a wheel that nobody signed.
    if sorted(listed_digests) != present:
        odd = sorted(set(listed_digests) ^ set(present))
        raise _refused(f"Its files are not those of {SUMS}: {', '.join(odd[:5])}.")
    for file_name in present:
        file_path = folder / file_name
        # What a link leads to may change after its digest was taken.
        if file_path.is_symlink() or digest_of(file_path) != listed_digests[file_name]:
            raise _refused(f"{file_name} is not what {SUMS} says.")


def sign_sums(folder: Path, key: Path) -> None:
    """Signs SHA256SUMS by an OpenSSH key; an agent (ssh-agent) may hold the private
    half.

    BadRequest (code signature) where that fails.
    """
    # ssh-keygen would ask a person whether it may write over it.
    (folder / SIGNATURE).unlink(missing_ok=True)
    command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)]
    process = _run([*command, str(folder / SUMS)])
    if process.returncode:
        last_lines = process.stderr.strip().splitlines()[-1:] or ["no reason is given"]
        raise BadRequest(
            f"ssh-keygen does not sign with {key}: {last_lines[0]}.",
            remedy="Give --key a private key of OpenSSH, or a public one whose private half ssh-agent holds.",
            code="signature",
        )


def check_signature(folder: Path, signers: Path) -> None:
    """Refused (code signature) unless SHA256SUMS is signed by one of the signers."""
    if not signers.is_file():
        raise BadRequest(
            f"There is no file of allowed signers at {signers}.",
            remedy="Write the line of the release's maker there, `release ssh-ed25519 ...`, as RELEASING.md shows, once"
            " you have compared it with a second source.",
            code="signature",
        )
    if signers.stat().st_mode & stat.S_IWOTH:
        raise BadRequest(
            f"Everybody on this machine may write {signers}: whoever has is trusted by it.",
            remedy=f"Look whether its lines are those that you compared, then run this again: chmod o-w {signers}",
            code="signature",
        )
    signature = folder / SIGNATURE
    command = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-I", SIGNER]
    command += ["-f", str(signers), "-s", str(signature)]
    is_good = False
    # A bundle may lack either; what is signed is the list.
    if signature.is_file() and (folder / SUMS).is_file():
        is_good = _run(command, (folder / SUMS).read_bytes()).returncode == 0
    if not is_good:
        raise Refused(
            f"{SUMS} is not signed by a key of {signers}.",
            remedy="Fetch the release again from its maker; never install one that is not signed by a key you know.",
            code="signature",
        )


def _run(
    command: Iterable[str], text: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        process = subprocess.run(
            list(command), input=text, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise BadRequest(
            "There is no ssh-keygen on this machine, which checks signatures.",
            remedy="Install OpenSSH's client (Debian: apt-get install openssh-client).",
            code="signature",
        ) from None
    return subprocess.CompletedProcess(
        process.args,
        process.returncode,
        process.stdout.decode("utf-8", "replace"),
        process.stderr.decode("utf-8", "replace"),
    )


def _refused(sentence: str) -> Refused:
    return Refused(
        sentence,
        remedy="It was damaged or altered on its way: fetch it again, and compare its digest with the release's.",
        code="bundle",
    )
