"""What a release consists of, without one: digests, signatures, bills of materials and
bundles of made files. tests/federation/test_release.py makes a whole one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deployments.release.bundle import describe, glibc_of, pack
from deployments.release.sbom import bill_of_materials
from deployments.signed_files import (
    SIGNATURE,
    SUMS,
    check_signature,
    check_sums,
    digest_of,
    sign_sums,
    write_sums,
)
from protocol.errors import BadRequest, Refused

NAMED = "Metadata-Version: 2.1\nName: consilium-agent\nVersion: 1.0\n"
PURE = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def made_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key, and the file in which somebody says that they trust it."""
    key = folder / name
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(command, check=True)
    signers = folder / f"{name}.signers"
    signers.write_text(f"release {key.with_suffix('.pub').read_text()}")
    return key, signers


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "one-1.0-py3-none-any.whl").write_bytes(b"one")
    (folder / "requirements.txt").write_text("one==1.0\n")
    write_sums(folder)
    return folder


# Digests


def test_sums_are_those_that_sha256sum_reads(files: Path) -> None:
    check_sums(files)
    subprocess.run(
        ["sha256sum", "--quiet", "--strict", "--check", SUMS], cwd=files, check=True
    )


def test_one_changed_byte_is_refused(files: Path) -> None:
    wheel = files / "wheels" / "one-1.0-py3-none-any.whl"
    wheel.write_bytes(b"onf")
    with pytest.raises(Refused, match=r"one-1\.0") as caught:
        check_sums(files)
    assert caught.value.code == "bundle"


@pytest.mark.parametrize("change", ["more", "less", "no list", "link", "upwards"])
def test_other_files_than_those_of_the_list_are_refused(
    change: str, files: Path, tmp_path: Path
) -> None:
    lock = files / "requirements.txt"
    match change:
        case "more":
            (files / "wheels" / "sitecustomize.py").write_text("")
        case "less":
            lock.unlink()
        case "no list":
            (files / SUMS).unlink()
        case "link":
            lock.rename(tmp_path / "elsewhere")
            lock.symlink_to(tmp_path / "elsewhere")
        case "upwards":
            outside = tmp_path / "outside"
            outside.write_text("")
            line = f"{digest_of(outside)}  wheels/../../outside\n"
            (files / SUMS).write_text((files / SUMS).read_text() + line)
    with pytest.raises(Refused):
        check_sums(files)


# Signatures


def test_a_signature_is_of_one_key_over_one_list(files: Path, tmp_path: Path) -> None:
    key, signers = made_key(tmp_path, "maker")
    _, others = made_key(tmp_path, "somebody")
    sign_sums(files, key)
    check_signature(files, signers)
    with pytest.raises(Refused, match="not signed by a key of"):
        check_signature(files, others)
    with (files / SUMS).open("a") as lines:
        lines.write(f"{'0' * 64}  more\n")
    with pytest.raises(Refused) as caught:
        check_signature(files, signers)
    assert caught.value.code == "signature"


def test_a_signature_without_its_list_is_none(files: Path, tmp_path: Path) -> None:
    key, signers = made_key(tmp_path, "maker")
    sign_sums(files, key)
    (files / SUMS).unlink()
    with pytest.raises(Refused, match="not signed by a key of"):
        check_signature(files, signers)


def test_no_signature_and_no_signers_are_two_sentences(
    files: Path, tmp_path: Path
) -> None:
    _, signers = made_key(tmp_path, "maker")
    with pytest.raises(Refused, match="not signed"):
        check_signature(files, signers)
    with pytest.raises(BadRequest, match="no file of allowed signers") as caught:
        check_signature(files, tmp_path / "none")
    assert "RELEASING.md" in caught.value.remedy


def test_a_signature_for_another_purpose_is_none(files: Path, tmp_path: Path) -> None:
    """The maker's key may sign mails and commits too."""
    key, signers = made_key(tmp_path, "maker")
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(key)]
    subprocess.run([*command, str(files / SUMS)], check=True)
    assert (files / SIGNATURE).exists()
    with pytest.raises(Refused):
        check_signature(files, signers)


def test_a_key_that_is_none_is_said(files: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key\n")
    with pytest.raises(BadRequest) as caught:
        sign_sums(files, tmp_path / "key")
    assert not (files / SIGNATURE).exists()
    assert "--key" in caught.value.remedy


# Bundles


def made_wheel(folder: Path, name: str, words: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", words)
    return path


def test_a_bill_of_materials_has_each_file_s_digest_and_is_the_same_again(
    tmp_path: Path,
) -> None:
    words = "Metadata-Version: 2.4\nName: Some_Package\nVersion: 1.0\nLicense-Expression: MIT\n"
    wheels = [made_wheel(tmp_path, "some_package", words)]
    wheels.append(
        made_wheel(tmp_path, "a", "Metadata-Version: 2.1\nName: a\nVersion: 1.0\n")
    )
    told = {"name": "bundle", "version": "1.0", "commit": "c" * 40, "seconds": 0}
    text = bill_of_materials(wheels, **told)
    assert text == bill_of_materials([*reversed(wheels)], **told)
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    first, second = bill["components"]
    assert "licenses" not in first
    assert second["purl"] == "pkg:pypi/some-package@1.0"
    assert second["licenses"] == [{"expression": "MIT"}]
    assert second["hashes"] == [{"alg": "SHA-256", "content": digest_of(wheels[0])}]


@pytest.mark.parametrize(
    ("names", "least"),
    [
        (["a-1-py3-none-any.whl"], (2, 17)),
        (["a-1-cp311-cp311-manylinux_2_34_x86_64.whl"], (2, 34)),
        # Of several names the oldest holds; of several wheels the newest.
        (["a-1-cp311-abi3-manylinux_2_34_x86_64.manylinux_2_28_x86_64.whl"], (2, 28)),
        (
            [
                "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
                "b-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            ],
            (2, 28),
        ),
    ],
)
def test_the_glibc_that_all_wheels_take(
    names: list[str], least: tuple[int, int]
) -> None:
    assert glibc_of(names) == least


def test_a_bundle_depends_on_names_and_contents_alone(
    files: Path, tmp_path: Path
) -> None:
    words = {"version": "1.0", "commit": "c", "python": "3.11", "machine": "x86_64"}
    describe(files, **words)
    pack(files, tmp_path / "one.tar", seconds=1_700_000_000)
    for path in files.rglob("*"):
        path.chmod(0o700)
        path.touch()
    pack(files, tmp_path / "two.tar", seconds=1_700_000_000)
    assert digest_of(tmp_path / "one.tar") == digest_of(tmp_path / "two.tar")


def test_the_install_script_is_a_shell_s_and_refuses_another_python(
    files: Path, tmp_path: Path
) -> None:
    words = {"version": "1.0", "commit": "c", "python": "3.99", "machine": "x86_64"}
    describe(files, **words)
    write_sums(files)
    script = str(files / "install.sh")
    subprocess.run(["sh", "-n", script], check=True)
    assert len(Path(script).read_text().splitlines()) <= 40
    into = tmp_path / "into"
    refused = subprocess.run(
        ["sh", script, str(into)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "python3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "This bundle is for Python 3.99" in refused.stderr
    assert not into.exists()


def test_the_install_script_says_what_a_file_of_signers_is_where_none_is(
    files: Path, tmp_path: Path
) -> None:
    """Who follows the four commands has not written one yet."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    words = {"version": "1.0", "commit": "c", "python": python, "machine": "x86_64"}
    describe(files, **words)
    write_sums(files)
    into = tmp_path / "into"
    refused = subprocess.run(
        ["sh", str(files / "install.sh"), str(into), str(tmp_path / "signers")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "signers is not there: write the release's key into it" in refused.stderr
    assert not into.exists()


@pytest.fixture
def bundle(files: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One that this machine could install, signed; and who trusts its maker."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    words = {"version": "1.0", "commit": "c", "python": python, "machine": "x86_64"}
    describe(files, **words)
    write_sums(files)
    key, signers = made_key(tmp_path, "maker")
    sign_sums(files, key)
    return files, signers


def installed_from(
    files: Path, into: Path, signers: Path, **variables: str
) -> tuple[int, str]:
    done = subprocess.run(
        ["sh", str(files / "install.sh"), str(into), str(signers)],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "name",
    ["wheels/consilium_more-1.0-py3-none-any.whl", "platform.py", "venv.py", ".more"],
)
def test_the_install_script_takes_no_file_that_is_not_listed(
    name: str, bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    """What is listed is signed; beside it may lie what somebody has put there, in the
    folder where Python looks first.
    """
    files, signers = bundle
    ran = tmp_path / "ran"
    (files / name).write_text(f"open({str(ran)!r}, 'w')\n")
    code, said = installed_from(files, tmp_path / "into", signers)
    assert (code, "other files than SHA256SUMS lists" in said) == (1, True), said
    assert not ran.exists()
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("byte", "A file is not what SHA256SUMS says"),
        ("list", "no key of"),
        ("no signature", "no key of"),
        ("other key", "no key of"),
    ],
)
def test_the_install_script_says_what_to_do_with_an_altered_bundle(
    change: str, words: str, bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    files, signers = bundle
    match change:
        case "byte":
            (files / "requirements.txt").write_text("two==1.0\n")
        case "list":
            (files / "requirements.txt").write_text("two==1.0\n")
            write_sums(files)
        case "no signature":
            (files / SIGNATURE).unlink()
        case "other key":
            _, signers = made_key(tmp_path, "other")
    code, said = installed_from(files, tmp_path / "into", signers)
    assert code == 1
    assert words in said.splitlines()[-1]
    assert "fetch it again" in said.splitlines()[-1]
    assert not (tmp_path / "into").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_install_script_heeds_no_setting_of_pip_s(
    bundle: tuple[Path, Path], tmp_path: Path
) -> None:
    """Such as a constraint that a hospital has for all its machines, or another folder."""
    files, signers = bundle
    wheel = files / "wheels" / "consilium_agent-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        entry = "consilium_agent-1.0.dist-info"
        archive.writestr("agents.py", "")
        archive.writestr(f"{entry}/METADATA", NAMED)
        archive.writestr(f"{entry}/WHEEL", PURE)
        archive.writestr(f"{entry}/RECORD", "")
    (files / "wheels" / "one-1.0-py3-none-any.whl").unlink()
    (files / "requirements.txt").write_text("")
    write_sums(files)
    sign_sums(files, tmp_path / "maker")

    settings = tmp_path / "pip.conf"
    settings.write_text(f"[install]\nconstraint = {tmp_path / 'none'}\n")
    into, elsewhere = tmp_path / "into", tmp_path / "elsewhere"
    variables = {"PIP_CONFIG_FILE": str(settings), "PIP_TARGET": str(elsewhere)}
    code, said = installed_from(files, into, signers, **variables)
    assert code == 0, said
    assert "/current is 1.0" in said.splitlines()[-1]
    assert list(into.glob("current/lib/python3*/site-packages/agents.py"))
    assert not elsewhere.exists()
