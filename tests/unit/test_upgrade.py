"""Another version of the agent takes the place of the one that runs: from bundles of a
script in place of an agent. tests/federation/test_release.py upgrades a real one.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from deployments.agent import main
from deployments.agent.upgrading import (
    Change,
    change_of,
    go_back,
    home_of,
    program_of,
    upgrade,
)
from deployments.signed_files import SIGNATURE, SUMS, sign_sums, write_sums
from protocol.errors import BadRequest, Conflict, ConsiliumError, Refused
from tests.made_bundles import FINE, Maker, installed
from tests.unit.test_release_files import made_key

FIRST, SECOND = "1.9.0", "1.10.0"
TOUCHES = ("open", "os.", "shutil.", "subprocess.", "tempfile.")
"""Of Python's audit events, those of files and programs."""


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Maker, Path, Path, Path]:
    """A maker, who trusts it, and its two bundles, which nothing alters."""
    folder = tmp_path_factory.mktemp("maker")
    key, signers = made_key(folder, "maker")
    maker = Maker(folder, key)
    return maker, signers, maker.bundle(FIRST), maker.bundle(SECOND)


class Hospital:
    """A folder of versions, where FIRST runs, and what a person does there."""

    def __init__(self, folder: Path, first: Path, signers: Path) -> None:
        self.home = installed(first, folder / "consilium")
        self.signers = signers
        self.site = folder / "site"
        self.site.mkdir()
        self.owner = (os.geteuid(), os.getegid())
        self.said: list[str] = []

    def upgrade(self, bundle: Path, *, older: bool = False) -> None:
        change = Change(self.home, bundle, self.site, self.owner, self.signers, older)
        upgrade(change, self.said.append)

    def back(self) -> None:
        go_back(self.home, self.said.append)

    def runs(self) -> str:
        """The version that a unit would start, by its own word."""
        program = self.home / "current" / "bin" / "consilium-agent"
        subprocess.run([str(program)], check=True, capture_output=True)
        return self.checked()[-1].split()[0]

    def checked(self) -> list[str]:
        """Which versions were run so far, each with its user."""
        return (self.home / "checked").read_text().splitlines()

    def left(self) -> set[str]:
        """What stands beside the versions."""
        names = {path.name for path in self.home.iterdir()}
        return names - {"current", "checked", FIRST, SECOND, "1.8.0"}


@pytest.fixture
def hospital(tmp_path: Path, signed: tuple[Maker, Path, Path, Path]) -> Hospital:
    _, signers, first, _ = signed
    return Hospital(tmp_path, first, signers)


@pytest.fixture
def maker(tmp_path: Path, signed: tuple[Maker, Path, Path, Path]) -> Maker:
    """The same key, and a folder of the test's own."""
    (tmp_path / "bundles").mkdir()
    return Maker(tmp_path / "bundles", signed[0].key)


@pytest.fixture
def second(signed: tuple[Maker, Path, Path, Path]) -> Path:
    return signed[3]


def refused(hospital: Hospital, bundle: Path, words: str) -> ConsiliumError:
    """Nothing is changed, and the sentence says why."""
    with pytest.raises(ConsiliumError, match=words) as caught:
        hospital.upgrade(bundle)
    assert caught.value.remedy
    assert hospital.runs() == FIRST
    assert hospital.left() == set()
    return caught.value


# Forward and back


def test_a_version_takes_the_place_of_another_and_gives_it_back(
    hospital: Hospital, second: Path
) -> None:
    hospital.upgrade(second)
    assert hospital.runs() == SECOND
    said = "\n".join(hospital.said)
    assert "signature is by a key of" in said
    assert f"version {SECOND} (commit c0ffeec0ffee)" in said
    assert f"current is {SECOND}, and was {FIRST}." in said
    assert "systemctl restart" in said
    hospital.back()
    assert hospital.runs() == FIRST
    with pytest.raises(Conflict, match=f"before {FIRST}"):
        hospital.back()
    # What is installed is taken as it is: an agent may still run from that folder.
    before = (hospital.home / SECOND / SUMS).stat().st_mtime_ns
    hospital.upgrade(second)
    assert hospital.runs() == SECOND
    assert (hospital.home / SECOND / SUMS).stat().st_mtime_ns == before
    assert hospital.left() == set()


def test_both_are_checked_before_the_switch(hospital: Hospital, second: Path) -> None:
    hospital.upgrade(second)
    user = os.geteuid()
    assert hospital.checked() == [f"{SECOND} {user}", f"{FIRST} {user}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs anything as another")
def test_root_runs_nothing_of_it_but_its_installation(
    signed: tuple[Maker, Path, Path, Path],
) -> None:
    """What looks at the site is the user whose site it is."""
    _, signers, first, second = signed
    # A folder of pytest's may be entered by root alone.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        hospital = Hospital(Path(folder), first, signers)
        (hospital.home / "checked").touch()
        (hospital.home / "checked").chmod(0o666)
        hospital.owner = (65534, 65534)
        hospital.upgrade(second)
        assert hospital.checked() == [f"{SECOND} 65534", f"{FIRST} 65534"]


def test_the_same_bundle_again_changes_nothing(
    hospital: Hospital, second: Path
) -> None:
    hospital.upgrade(second)
    hospital.upgrade(second)
    assert hospital.said[-1].endswith("already. Nothing was changed.")
    hospital.back()
    assert hospital.runs() == FIRST


def test_an_older_version_has_to_be_meant(hospital: Hospital, maker: Maker) -> None:
    older = maker.bundle("1.8.0")
    error = refused(hospital, older, f"version 1.8.0, older than {FIRST}")
    assert "upgrade --back" in error.remedy
    assert "--older" in error.remedy
    hospital.upgrade(older, older=True)
    assert hospital.runs() == "1.8.0"
    hospital.back()
    assert hospital.runs() == FIRST


def test_another_bundle_of_a_version_that_is_there(
    hospital: Hospital, maker: Maker, second: Path
) -> None:
    refused(hospital, maker.bundle(FIRST, findings=[*FINE, *FINE]), "another bundle")
    hospital.upgrade(second)
    hospital.back()
    other = maker.bundle(SECOND, findings=[*FINE, *FINE])
    with pytest.raises(Refused, match="another bundle of that version"):
        hospital.upgrade(other)
    assert hospital.runs() == FIRST


# What the new version finds


def wrong(check: str) -> dict[str, str]:
    return {"check": check, "state": "wrong", "sentence": "Bad.", "remedy": "Mend it."}


def test_what_only_the_new_version_finds_wrong_stops_it(
    hospital: Hospital, maker: Maker
) -> None:
    bundle = maker.bundle(SECOND, findings=[*FINE, wrong("policy")])
    error = refused(hospital, bundle, "finds wrong what it does not with 1.9.0: policy")
    assert "Nothing was changed" not in error.remedy
    assert any("Bad. Mend it." in line for line in hospital.said)


@pytest.mark.parametrize("findings", [[wrong("version")], [wrong("coordinator")]])
def test_what_was_wrong_before_or_lies_with_others_does_not(
    findings: list[dict[str, str]],
    tmp_path: Path,
    maker: Maker,
    signed: tuple[Maker, Path, Path, Path],
) -> None:
    first = maker.bundle(FIRST, findings=[wrong("coordinator")])
    hospital = Hospital(tmp_path, first, signed[1])
    hospital.upgrade(maker.bundle(SECOND, findings=findings))
    assert hospital.runs() == SECOND


@pytest.mark.parametrize("findings", ["no list", [1], [{"state": "ok"}], {"a": "b"}])
def test_a_version_that_does_not_run_here(
    findings: Any, hospital: Hospital, maker: Maker
) -> None:
    refused(hospital, maker.bundle(SECOND, findings=findings), "does not run here")


def test_an_installation_that_fails(hospital: Hospital, maker: Maker) -> None:
    bundle = maker.bundle(SECOND)
    folder = bundle.with_suffix("")
    (folder / "install.sh").write_text("echo no room >&2; exit 1")
    write_sums(folder)
    sign_sums(folder, maker.key)
    error = refused(hospital, maker.packed(folder), "cannot be installed: no room")
    assert FIRST in error.remedy


def test_no_room_for_another_version(
    hospital: Hospital, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(hospital, second, "no room for another version")


# Bundles that are not what they say


def altered_byte(folder: Path) -> None:
    wheel = folder / "wheels" / "one-1.0-py3-none-any.whl"
    wheel.write_bytes(b"onf" + wheel.read_bytes()[3:])


def another_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(SECOND, "9.0.0"))


def another_file(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("")


def one_file_less(folder: Path) -> None:
    (folder / "findings.json").unlink()


@pytest.mark.parametrize(
    "change", [altered_byte, another_manifest, another_file, one_file_less]
)
def test_a_bundle_that_was_altered_installs_nothing(
    change: Any, hospital: Hospital, maker: Maker
) -> None:
    folder = maker.bundle(SECOND).with_suffix("")
    change(folder)
    assert refused(hospital, maker.packed(folder), SUMS).code == "bundle"
    # Nor where whoever altered it has written the list anew.
    write_sums(folder)
    assert refused(hospital, maker.packed(folder), "not signed").code == "signature"


def test_each_byte_of_a_bundle_counts(
    hospital: Hospital, second: Path, tmp_path: Path
) -> None:
    """Wherever a tar is changed: its files, their names, the list or the signature.

    Of the padding between files nothing is read.
    """
    with tarfile.open(second) as archive:
        places = [entry.offset_data for entry in archive if entry.size]
    whole = second.read_bytes()
    for place in places:
        altered = bytearray(whole)
        altered[place + 40] ^= 1
        path = tmp_path / "altered.tar"
        path.write_bytes(altered)
        refused(hospital, path, f"not signed|{SUMS}")


def test_a_signature_by_another_key_or_over_another_list(
    hospital: Hospital, maker: Maker, second: Path, tmp_path: Path
) -> None:
    folder = maker.copy_of(maker.bundle(SECOND), "other-key")
    stranger, _ = made_key(tmp_path, "stranger")
    sign_sums(folder, stranger)
    assert refused(hospital, maker.packed(folder), "not signed").code == "signature"
    # The maker's own signature, of another bundle.
    other = maker.bundle("1.11.0").with_suffix("") / SIGNATURE
    shutil.copy(other, folder / SIGNATURE)
    assert refused(hospital, maker.packed(folder), "not signed").code == "signature"
    (folder / SIGNATURE).unlink()
    assert refused(hospital, maker.packed(folder), "not signed").code == "signature"


def test_a_list_that_comes_twice_is_not_the_one_that_was_signed(
    hospital: Hospital, second: Path, tmp_path: Path
) -> None:
    path = tmp_path / "twice.tar"
    path.write_bytes(second.read_bytes())
    with tarfile.open(path, "a") as archive:
        top = archive.getnames()[0].partition("/")[0]
        entry = tarfile.TarInfo(f"{top}/{SUMS}")
        entry.size = 1
        archive.addfile(entry, BytesIO(b"\n"))
    refused(hospital, path, "one of them twice")


@pytest.mark.parametrize("kind", ["link", "upwards", "absolute", "folder"])
def test_a_bundle_writes_nowhere_else(
    kind: str, hospital: Hospital, second: Path, tmp_path: Path
) -> None:
    path = tmp_path / "more.tar"
    path.write_bytes(second.read_bytes())
    outside = tmp_path / "outside"
    with tarfile.open(path, "a") as archive:
        top = archive.getnames()[0].partition("/")[0]
        entry = tarfile.TarInfo(f"{top}/more")
        match kind:
            case "link":
                entry.type, entry.linkname = tarfile.SYMTYPE, str(outside)
            case "upwards":
                entry.name = f"{top}/../../../outside"
            case "absolute":
                entry.name = str(outside)
            case "folder":
                entry.name = "elsewhere/more"
        archive.addfile(entry)
    refused(hospital, path, "other things than files")
    assert not outside.exists()


def test_a_bundle_for_another_python_or_of_another_part(
    hospital: Hospital, maker: Maker
) -> None:
    error = refused(hospital, maker.bundle(SECOND, python="3.99"), "for Python 3.99")
    assert f"bundle of {SECOND} for Python {sys.version_info[0]}." in error.remedy
    refused(hospital, maker.bundle("1.11.0", part="server"), "no bundle of an agent")
    refused(hospital, maker.bundle("../1.12", name="odd"), "no bundle of an agent")


@pytest.mark.parametrize("text", [None, b"", b"no tar", bytes(10240)])
def test_what_is_no_bundle(
    text: bytes | None, hospital: Hospital, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.tar"
    if text is not None:
        path.write_bytes(text)
    refused(hospital, path, "no bundle|cannot be unpacked|not signed")


def test_nobody_is_trusted_yet(
    hospital: Hospital, second: Path, tmp_path: Path
) -> None:
    hospital.signers = tmp_path / "none"
    error = refused(hospital, second, "no file of allowed signers")
    assert "RELEASING.md" in error.remedy


def test_signers_that_everybody_may_write_are_trusted_by_nobody(
    hospital: Hospital, second: Path, tmp_path: Path
) -> None:
    hospital.signers = Path(shutil.copy(hospital.signers, tmp_path / "signers"))
    hospital.signers.chmod(0o646)
    error = refused(hospital, second, "Everybody on this machine may write")
    assert f"chmod o-w {hospital.signers}" in error.remedy
    hospital.signers.chmod(0o644)
    hospital.upgrade(second)
    assert hospital.runs() == SECOND


# Killed in between


def killed_at(hospital: Hospital, bundle: Path, step: float) -> int | None:
    """An upgrade that is killed as it touches a file for this time; how often it has
    touched one, where it comes to its end before.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        seen = itertools.count()

        def hook(event: str, _: tuple[Any, ...]) -> None:
            if event.startswith(TOUCHES) and next(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            hospital.upgrade(bundle)
            os.write(tell, b"%d" % next(seen))
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(told) as file:
        said = file.read()
    return int(said) if said else None


@pytest.mark.parametrize(
    "every", [23, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.thorough])]
)
def test_killed_at_any_step_one_of_the_two_runs(
    every: int,
    tmp_path: Path,
    signed: tuple[Maker, Path, Path, Path],
) -> None:
    """At each of the last ones, where the link is replaced."""
    _, signers, first, second = signed
    whole = tmp_path / "whole"
    whole.mkdir()
    n_steps = killed_at(Hospital(whole, first, signers), second, math.inf)
    assert n_steps is not None
    ran = []
    for step in sorted({*range(0, n_steps, every), *range(n_steps - 10, n_steps)}):
        folder = tmp_path / str(step)
        folder.mkdir()
        hospital = Hospital(folder, first, signers)
        n_touched = killed_at(hospital, second, step)
        assert n_touched is None or n_touched <= step
        ran.append(hospital.runs())
        # And whoever tries again comes to the end, with nothing left over.
        if ran[-1] == FIRST:
            _until_free(hospital, second)
        assert hospital.runs() == SECOND
        shutil.rmtree(folder)
    # The old one until one step, and the new one from there on.
    assert set(ran) == {FIRST, SECOND}
    assert ran == sorted(ran, key=[FIRST, SECOND].index)


def _until_free(hospital: Hospital, bundle: Path) -> None:
    """What the killed one has started may still be at its end."""
    for _ in range(100):
        try:
            hospital.upgrade(bundle)
        except Conflict:
            time.sleep(0.05)
        else:
            break
    assert hospital.left() == set()


def test_an_installation_whose_upgrade_was_killed_keeps_others_out(
    hospital: Hospital, maker: Maker
) -> None:
    """install.sh goes on alone; a second one must not write into the same folder."""
    bundle = maker.bundle(SECOND, waits=True)
    gate = hospital.home / "gate"
    os.mkfifo(gate)
    child = os.fork()
    if child == 0:
        try:
            hospital.upgrade(bundle)
        finally:
            os._exit(0)
    # Whatever else waits at the gate goes on in the end.
    opened = threading.Timer(30, gate.write_text, ["go on\n"])
    opened.daemon = True
    opened.start()
    unfinished = hospital.home / f".{SECOND}.unfinished"
    while not (hospital.home / SECOND / "findings.json").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(Conflict, match="Another upgrade is at work"):
        hospital.upgrade(bundle)
    assert hospital.runs() == FIRST
    opened.cancel()
    gate.write_text("go on\n")
    while unfinished.exists():
        time.sleep(0.01)
    gate.unlink()
    _until_free(hospital, bundle)
    assert hospital.runs() == SECOND


# The command


def test_who_is_not_in_a_folder_of_versions_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["upgrade", "--back"]) == 2
    told = capsys.readouterr().err
    assert "does not stand in a folder of versions" in told
    assert "install.sh" in told


def test_a_bundle_needs_a_site(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--bundle", "file", "--older"]) == 2
    assert "No site is given." in capsys.readouterr().err


def test_the_command_knows_its_folder(
    hospital: Hospital,
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where a person has called the version by its own name."""
    (hospital.site / "settings.toml").write_text('user_id = 2\nname = "a"\n')
    monkeypatch.setattr(sys, "prefix", str(hospital.home / FIRST))
    words = ["upgrade", "--site", str(hospital.site), "--bundle", str(second)]
    assert main([*words, "--signers", str(hospital.signers)]) == 0
    assert hospital.runs() == SECOND
    assert f"current is {SECOND}" in capsys.readouterr().out
    assert main(["upgrade", "--back"]) == 0
    assert hospital.runs() == FIRST
    # The installation's own signers, where none are given.
    assert main(words) == 2
    assert str(hospital.home / "allowed_signers") in capsys.readouterr().err


def test_a_unit_starts_what_is_current(hospital: Hospital, tmp_path: Path) -> None:
    current = hospital.home / "current"
    for prefix in (hospital.home / FIRST, current):
        assert program_of(prefix) == current / "bin" / "consilium-agent"
        assert home_of(prefix) == hospital.home
    # An environment that somebody has made by hand.
    assert program_of(tmp_path) == tmp_path / "bin" / "consilium-agent"


def test_a_link_that_names_no_version(hospital: Hospital, second: Path) -> None:
    (hospital.home / "current").unlink()
    (hospital.home / "current").symlink_to("elsewhere")
    with pytest.raises(Conflict, match="names no version"):
        hospital.upgrade(second)


def test_who_may_not_write_there_is_told(
    hospital: Hospital, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(sys, "prefix", str(hospital.home / FIRST))
    (hospital.site / "settings.toml").write_text('user_id = 2\nname = "a"\n')
    with pytest.raises(BadRequest, match="may not write") as caught:
        change_of(
            Path(sys.prefix),
            second,
            site=hospital.site,
            state=hospital.site,
            signers=None,
            is_older_meant=False,
        )
    assert "root" in caught.value.remedy
