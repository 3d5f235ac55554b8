"""`consilium-agent init`: makes a hospital's site from an enrolment file.

The agent's token is made here; the coordinator is shown its digest, once, by the token
of the file. Either the whole site is there at the end, or nothing is: settings.toml,
which makes it a site, comes last. Decision 110.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import ssl
import stat
import sys
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from agents.site.settings import SiteSettings, load_settings, user_name
from agents.site.vault import Vault
from deployments.agent.upgrading import program_of
from protocol.errors import (
    BadRequest,
    Conflict,
    ConsiliumError,
    Forbidden,
    Unavailable,
)
from protocol.exchange import error_of
from protocol.machine.disk import make_private_folder, write_durably
from protocol.machine.installed import is_installed
from protocol.tls import obstacle
from protocol.toml_text import toml_string

TREE = Path(__file__).resolve().parents[2]
EXAMPLES = TREE / "deployments" / "sites"
UNIT = TREE / "deployments" / "production" / "consilium-agent.service"
QUADLET = TREE / "deployments" / "production" / "consilium-agent.container"
HOMES = ("/home", "/root", "/run/user")
TOKEN_BYTES = 32
_FIELDS: dict[str, type] = {
    "user_id": int,
    "name": str,
    "coordinator_url": str,
    "expires": datetime,
    "token": str,
}


@dataclass(frozen=True)
class EnrolmentFile:
    """What the operator has written."""

    path: Path
    user_id: int
    name: str
    coordinator_url: str
    expires: datetime
    token: str
    ca: str | None = None  # PEM


def read_enrolment(path: Path, *, now: datetime) -> EnrolmentFile:
    """BadRequest (codes enrolment_file, enrolment_expired) names what is wrong."""
    try:
        mode = path.stat().st_mode
        enrolment_values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        sentence = f"{path} is no enrolment file ({type(error).__name__})."
        raise _wrong_file(
            sentence, "Give the NAME.enrol.toml of the operator."
        ) from None
    # Who else has read it may use it first.
    if mode & 0o077:
        remedy = f"If others use this machine, ask the operator for a new file; else run: chmod 600 {path}"
        raise _wrong_file(f"{path} can be read by others.", remedy)
    faults = _faults(enrolment_values)
    if faults:
        sentence = f"{path} is no enrolment file: {', '.join(faults)}."
        raise _wrong_file(
            sentence, "Take it as the operator wrote it, or ask for a new one."
        )
    expires = enrolment_values["expires"]
    # First the zone: a time without one cannot be compared, which would be a TypeError.
    if expires.tzinfo is None or expires < now:
        raise BadRequest(
            f"This enrolment has expired ({expires}).",
            remedy="Ask the operator for a new file (./run server enrol), and look whether the clock here is right.",
            code="enrolment_expired",
        )
    return EnrolmentFile(path, **enrolment_values)


def _faults(values: dict[str, Any]) -> list[str]:
    """Every key that is missing, unknown or of another type."""
    faults = []
    for key, value_type in _FIELDS.items():
        # Not isinstance: to it True is an int, and would be the number 1.
        if type(values.get(key)) is not value_type:
            faults.append(f"{key} is missing or of another type")
    ca = values.get("ca")
    if ca is not None and not _is_authority(ca):
        faults.append("ca is no certificate")
    unknown = sorted(set(values) - set(_FIELDS) - {"ca"})
    return faults + [f"{key} is no key of it" for key in unknown]


def _is_authority(text: Any) -> bool:
    if not isinstance(text, str):
        return False
    try:
        ssl.create_default_context(cadata=text)
    except (ValueError, ssl.SSLError):
        return False
    return True


def _wrong_file(sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code="enrolment_file")


def make_site(file: EnrolmentFile, site: Path, state: Path) -> SiteSettings:
    """Makes a site, joins, and gives its settings.

    Conflict (code site_exists) over a site or a vault that is there, and nothing is
    changed; BadRequest, Forbidden or Unavailable where the coordinator does not take
    the enrolment, and nothing is left but the token, by which `init` may be run again.
    """
    # The unit starts the agent in another folder: a relative path would lead elsewhere.
    site, state = site.absolute(), state.absolute()
    _require_writable(site, state)
    # Either of them is enough: a vault alone has keys that partners have written down.
    for present in (site / "settings.toml", state / "vault" / "identity.json"):
        if present.exists():
            raise Conflict(
                f"There is a hospital's site already: {present}.",
                remedy="Give other folders by --site and --state, or go on with what is there: nothing was changed.",
                code="site_exists",
            )
    # A folder that root has made for this user stays where joining fails.
    was_there = site.exists()
    written = _write_beside(file, site, state)
    try:
        # Read back before the enrolment is used: what is refused here costs nothing.
        settings = load_settings(site / ".new")
        _join(file, settings)
    except (ConsiliumError, OSError):
        _remove(written, site, was_there=was_there)
        raise
    # Rules before settings: who dies here has no site yet, and runs `init` again.
    for name in ("policy.toml", "policy.schema.json"):
        if not (site / name).exists():
            write_durably(site / name, (EXAMPLES / _example(name)).read_bytes())
    # From here on it is a site.
    os.replace(site / ".new" / "settings.toml", site / "settings.toml")
    (site / ".new").rmdir()
    settings = load_settings(site)
    # Last: where this dies the site stands, and the next command makes the keys.
    Vault(settings.vault).identity()
    return settings


def _require_writable(*folders: Path) -> None:
    """BadRequest (code site) for a folder that this user can neither write to nor make."""
    closed = []
    for folder in folders:
        nearest = folder
        # Of a folder that may not be entered, nothing says whether it is there.
        while not os.path.exists(nearest):
            nearest = nearest.parent
        if not os.access(nearest, os.W_OK | os.X_OK):
            closed.append(str(folder))
    if closed:
        make = f"install -d -m 700 -o {user_name()} {' '.join(closed)}"
        raise BadRequest(
            f"The user {user_name()} may not write to {' and '.join(closed)}.",
            remedy=f"As root, run: {make}; or give other folders by --site and --state.",
            code="site",
        )


def _example(name: str) -> str:
    return "policy.example.toml" if name == "policy.toml" else name


def _write_beside(file: EnrolmentFile, site: Path, state: Path) -> list[Path]:
    """The new settings in a folder of their own, and the authority where they say."""
    make_private_folder(site)
    make_private_folder(site / ".new")
    settings_lines = [
        "# Every key: docs/settings.md. Pins of partners follow below, one [[partners]] each.",
        f"user_id = {file.user_id}",
        f"name = {toml_string(file.name)}",
        f"coordinator_url = {toml_string(file.coordinator_url)}",
        f"state = {toml_string(str(state))}",
        '# data_url = "postgresql+psycopg://consilium_reader:password@db.local/hospital"',
    ]
    written = [site / ".new" / "settings.toml"]
    if file.ca is not None:
        authority = site / "coordinator-ca.pem"
        write_durably(authority, file.ca.encode())
        settings_lines.append(f"ca_file = {toml_string(str(authority))}")
        written.append(authority)
    # After the authority, whose file these settings name.
    write_durably(written[0], ("\n".join(settings_lines) + "\n").encode())
    return written


def _remove(written: list[Path], site: Path, *, was_there: bool) -> None:
    for written_path in written:
        written_path.unlink(missing_ok=True)
    # Empty folders only: what somebody has put there meanwhile is not taken away.
    (site / ".new").rmdir()
    if not was_there:
        site.rmdir()


def _join(file: EnrolmentFile, settings: SiteSettings) -> None:
    """Makes the agent's token known to the coordinator.

    It is on disk before: who dies in between runs `init` again, and the coordinator
    knows the same token again.
    """
    token_path = settings.state / "token"
    if not token_path.exists():
        write_durably(token_path, secrets.token_urlsafe(TOKEN_BYTES).encode())
    # The digest alone travels: a log or a proxy on the way has no token of the agent.
    # It is of what was read back, which is what the agent will send.
    digest = hashlib.sha256(settings.secret("token").encode()).hexdigest()
    headers = {"Authorization": f"Bearer {file.token}"}
    try:
        with settings.client() as client:
            answer = client.put(
                "hospitals/me/token", headers=headers, json={"digest": digest}
            )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        between = obstacle(error)
        if between is not None:
            remedy = "Ask the operator whether this file is of the same federation and has its newest authority (ca)."
            raise BadRequest(between.sentence, remedy=remedy, code="ca_file") from None
        raise Unavailable(
            f"{settings.coordinator_url} does not answer ({type(error).__name__}).",
            remedy="Look at the network and the firewall, then run init again: the file can still be used.",
        ) from None
    if answer.status_code != 200:
        refusal = error_of(answer)
        if refusal.code == "token":
            raise Forbidden(
                f"The coordinator at {settings.coordinator_url} does not know this enrolment.",
                remedy="The file is of another federation, or somebody changed it: ask the operator for a new one.",
                code="enrolment_file",
            )
        raise refusal
    try:
        known_hospital = answer.json().get("data") or {}
    except (ValueError, AttributeError):
        raise Unavailable(
            f"What answers at {settings.coordinator_url} is no coordinator.",
            remedy="Look at what stands between (a proxy, a page to sign in), then run init again.",
        ) from None
    if known_hospital.get("user_id") not in (file.user_id, None):
        raise Conflict(
            f"The coordinator takes this file as that of hospital {known_hospital.get('user_id')}, not {file.user_id}.",
            remedy="Ask the operator for a new file.",
            code="enrolment_file",
        )


# What keeps the agent running


def unit_text(settings: SiteSettings) -> str:
    """The unit of systemd for this site, its user being who runs `init` unless that is
    root.
    """
    text = UNIT.read_text("utf-8")
    if is_installed("consilium-agent"):
        # Of ./run, which is not there.
        text = re.sub(r"(?m)^# .*(\./run|HTTPS_PROXY).*\n", "", text)
    site, state = _word(settings.site), _word(settings.state)
    # In a command $ begins a variable, elsewhere it does not.
    command = f"{_program()} start --site {site}".replace("$", "$$")
    text = _with_line(text, "ExecStart", command)
    text = _with_line(text, "WorkingDirectory", _escaped(settings.state))
    # systemd makes a StateDirectory below /var/lib alone, and to this unit all else is
    # read-only.
    if settings.state != Path("/var/lib/consilium"):
        text = _with_line(text, "StateDirectory", "")
        text = text.replace(
            "ProtectSystem=strict\n",
            f"ProtectSystem=strict\nReadWritePaths={state}\n",
        )
    if any(
        _is_in_a_home(path) for path in (settings.site, settings.state, _program_file())
    ):
        text = _with_line(text, "ProtectHome", "false")
    unit_user = user_name()
    return text if unit_user == "root" else _with_line(text, "User", unit_user)


def owner_to_give(settings: SiteSettings) -> str | None:
    """What root has to do before the unit's user can read the site that root has made."""
    if os.getuid() != 0:
        return None
    match = re.search(r"(?m)^User=(.+)$", UNIT.read_text("utf-8"))
    user = match[1] if match else "root"
    folders = f"{_top_of(settings.site)} {_top_of(settings.state)}"
    return (
        f"The unit runs the agent as {user}, and this site is root's. As root, make that user if it is not there, and"
        f" run: chown -R {user}: {folders}"
    )


def _top_of(folder: Path) -> Path:
    """This folder, or the one above that was made for it alone: nobody else may enter it."""
    above = folder.parent
    # No higher than what was made for this site: /etc is not given away.
    is_closed = not above.stat().st_mode & stat.S_IXOTH
    if is_closed and len(list(above.iterdir())) == 1:
        return _top_of(above)
    return folder


def check_quadlet(*folders: Path) -> None:
    """BadRequest (code site) for folders that a quadlet cannot name: its volumes are
    parted by colons, and Podman reads quotes and % in a way of its own.
    """
    for folder in folders:
        if not re.fullmatch(r"[\w/.+@-]+", str(folder.absolute())):
            raise BadRequest(
                f"The folder {str(folder)!r} cannot stand in a quadlet.",
                remedy="Give folders of letters, digits and / . _ + @ - by --site and --state.",
                code="site",
            )


def quadlet_text(settings: SiteSettings) -> str:
    """The quadlet of Podman for this site, which stands where it stood in the image."""
    text = QUADLET.read_text("utf-8")
    text = text.replace("/etc/consilium/my-hospital:", f"{settings.site}:")
    text = text.replace("/etc/consilium/my-hospital", str(settings.site))
    return text.replace(
        "/var/lib/consilium:/var/lib/consilium", f"{settings.state}:{settings.state}"
    )


def _with_line(text: str, key: str, value: str) -> str:
    # By a function: in a replacement's text a backslash of a path would be an escape.
    return re.sub(rf"(?m)^{key}=.*$", lambda _: f"{key}={value}", text)


def _escaped(path: Path) -> str:
    """For systemd, to whom % begins a name of its own."""
    return str(path).replace("%", "%%")


def _word(path: Path) -> str:
    """One word of a line of systemd's."""
    escaped_path = _escaped(path)
    if not re.search(r"[\s\"'\\]", escaped_path):
        return escaped_path
    quoted = escaped_path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _is_in_a_home(path: Path) -> bool:
    """Where ProtectHome of systemd lets nobody in."""
    return any(path.is_relative_to(home) for home in HOMES)


def _program() -> str:
    program = _word(_program_file())
    return program if is_installed("consilium-agent") else f"{program} agent"


def _program_file() -> Path:
    """What a unit starts, without the words behind it."""
    if is_installed("consilium-agent"):
        return program_of(Path(sys.prefix))
    return TREE / "run"


def now() -> datetime:
    return datetime.now(UTC)
