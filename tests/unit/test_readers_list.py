"""Whom a hospital lists as readers: in the policy, and by the agent's command."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from agents.site.ledger import Ledger
from agents.site.policy import load_policy, parse_policy
from agents.site.readers_file import add_reader, remove_reader
from agents.site.settings import load_settings
from deployments.agent import main
from protocol.errors import BadRequest, Conflict, NotFound, Refused
from tests.made_readers import LIN, WANG, fingerprint, public
from tests.unit.test_policy import SMALLEST

LINS, WANGS = fingerprint(LIN), fingerprint(WANG)


def listing(*lines: str) -> str:
    return SMALLEST + "\n".join(["[readers]", *lines, ""])


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(SMALLEST + "# who reads, see the folder of consents\n")
    return path


# The policy


def test_silence_means_that_nobody_is_a_reader() -> None:
    assert parse_policy(SMALLEST).readers == {}
    with pytest.raises(Refused) as caught:
        parse_policy(SMALLEST).check_reader(public(LIN))
    assert caught.value.code == "reader"
    assert LINS in caught.value.remedy


def test_a_listed_reader_passes_in_any_case_and_another_does_not() -> None:
    found = parse_policy(listing(f'lin = "{LINS.upper()}"'))
    found.check_reader(public(LIN))
    assert found.reader_words(public(LIN)) == f"lin, {LINS}"
    with pytest.raises(Refused):
        found.check_reader(public(WANG))
    assert found.reader_words(public(WANG)) == WANGS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('lin = "6e59"', "has no fingerprint for lin"),
        (f'lin = "{LINS[:-1]}"', "has no fingerprint for lin"),
        ("lin = true", "has no fingerprint for lin"),
        (f'lin = "{LINS} {WANGS}"', "has no fingerprint for lin"),
        (f'lin = ["{LINS}", "{WANGS}"]', "has no fingerprint for lin"),
        ('" " = "x"', "has no fingerprint for"),
        (f'lin = "{LINS}"\nli = "{LINS}"', "gives lin and li the same fingerprint"),
    ],
)
def test_a_list_that_is_none_is_refused_with_what_to_write(
    line: str, words: str
) -> None:
    with pytest.raises(Refused) as caught:
        parse_policy(listing(line))
    assert caught.value.code == "policy"
    assert words in caught.value.sentence
    assert "readers in policy.toml" in caught.value.sentence
    assert caught.value.remedy


def test_a_list_that_is_no_table_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        parse_policy(f'readers = ["{LINS}"]\n' + SMALLEST)
    assert "is no table of names" in caught.value.sentence


def test_a_name_with_two_lines_is_refused_with_the_line() -> None:
    with pytest.raises(Refused) as caught:
        parse_policy(listing(f'lin = "{LINS}"', f'lin = "{WANGS}"'))
    assert caught.value.code == "policy"
    assert "at line" in caught.value.sentence


def test_readers_are_in_nothing_that_the_coordinator_shows() -> None:
    told = parse_policy(listing(f'lin = "{LINS}"')).told().model_dump_json()
    assert LINS not in told
    assert "lin" not in told.replace("linear", "")


# The file


def test_what_is_added_and_removed_leaves_the_rest_as_it_was(policy: Path) -> None:
    before = policy.read_text()
    policy.chmod(0o640)
    assert add_reader(policy, "lin", f" {LINS.upper()} ")
    assert add_reader(policy, "王医生", WANGS)
    assert not add_reader(policy, "lin", LINS)
    assert load_policy(policy).readers == {"lin": LINS, "王医生": WANGS}
    assert policy.read_text().startswith(before)
    assert stat.S_IMODE(policy.stat().st_mode) == 0o640
    assert remove_reader(policy, "lin") == LINS
    assert load_policy(policy).readers == {"王医生": WANGS}
    assert [path.name for path in policy.parent.iterdir()] == ["policy.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_of_roots_hand_the_policy_stays_the_agents(policy: Path) -> None:
    policy.chmod(0o600)
    os.chown(policy, 12_345, 12_346)
    add_reader(policy, "lin", LINS)
    remove_reader(policy, "lin")
    found = policy.stat()
    assert (found.st_uid, found.st_gid) == (12_345, 12_346)
    assert stat.S_IMODE(found.st_mode) == 0o600


def test_of_two_people_at_once_both_are_listed(policy: Path) -> None:
    """The second waits until the first has written."""
    second = threading.Thread(target=add_reader, args=(policy, "wang", WANGS))

    def meanwhile(_: str) -> None:
        second.start()
        # Unlocked it would be done within this time, and then be written over.
        second.join(timeout=1)

    add_reader(policy, "lin", LINS, note=meanwhile)
    second.join(timeout=30)
    assert load_policy(policy).readers == {"lin": LINS, "wang": WANGS}


def test_the_ledger_knows_of_a_change_before_the_list_does(policy: Path) -> None:
    """Who dies in between has an entry too many, and no reader whom nobody noted."""
    noted = []

    def die(fingerprint: str) -> None:
        noted.append(fingerprint)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_reader(policy, "lin", LINS, note=die)
    assert (noted, load_policy(policy).readers) == ([LINS], {})
    add_reader(policy, "lin", LINS)
    with pytest.raises(KeyboardInterrupt):
        remove_reader(policy, "lin", note=die)
    assert (noted, load_policy(policy).readers) == ([LINS, LINS], {"lin": LINS})


def test_sections_behind_the_list_stay_what_they_are(policy: Path) -> None:
    policy.write_text(listing("# typed in on paper") + "[cohort]\nmin_rows = 12\n")
    add_reader(policy, "lin", LINS)
    found = load_policy(policy)
    assert (found.readers, found.cohort.min_rows) == ({"lin": LINS}, 12)


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("lin", "6e59"),
        ("lin", f"{LINS} {WANGS}"),
        ("", WANGS),
        (" lin", WANGS),
        ("li\nn", WANGS),
        ("x" * 101, WANGS),
    ],
)
def test_what_is_no_reader_is_not_written(policy: Path, name: str, typed: str) -> None:
    before = policy.read_bytes()
    with pytest.raises(BadRequest):
        add_reader(policy, name, typed)
    assert policy.read_bytes() == before


def test_a_changed_key_and_a_second_name_are_no_additions(policy: Path) -> None:
    add_reader(policy, "lin", LINS)
    before = policy.read_bytes()
    with pytest.raises(Conflict, match="readers remove lin"):
        add_reader(policy, "lin", WANGS)
    with pytest.raises(Conflict, match="listed as lin's"):
        add_reader(policy, "li", LINS)
    with pytest.raises(NotFound, match="Listed: lin"):
        remove_reader(policy, "li")
    assert policy.read_bytes() == before


def test_another_way_of_writing_is_left_to_the_person(policy: Path) -> None:
    policy.write_text(f'readers = {{ lin = "{LINS}" }}\n' + SMALLEST)
    before = policy.read_bytes()
    with pytest.raises(Conflict, match="by hand"):
        add_reader(policy, "wang", WANGS)
    with pytest.raises(Conflict, match="by hand"):
        remove_reader(policy, "lin")
    assert policy.read_bytes() == before


def test_a_name_with_quotes_is_one(policy: Path) -> None:
    add_reader(policy, 'Lin "the younger" \\', LINS)
    assert load_policy(policy).readers == {'Lin "the younger" \\': LINS}


# The command


def test_the_command_lists_adds_and_removes_with_a_line_in_the_ledger(
    tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f'user_id = 4\nname = "here"\nstate = "{tmp_path / "state"}"\n'
    (tmp_path / "settings.toml").write_text(text)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["readers", *words, "--site", str(tmp_path)])
        return (code, *capsys.readouterr())

    assert run("list") == (
        0,
        "",
        "Nobody is listed: no answer is sealed to a reader.\n",
    )
    code, out, _ = run("add", "lin", LINS)
    assert (code, out) == (0, f"Answers may be sealed to lin, {LINS}.\n")
    assert run("list")[1] == f"{LINS}  lin\n"
    assert run("add", "lin", LINS)[2] == "lin is listed already.\n"
    code, out, _ = run("remove", "lin")
    assert (code, out) == (0, f"No answer is sealed to lin any more, {LINS}.\n")
    for words in (["add", "lin"], ["remove"], ["list", "lin"], ["remove", "a", "b"]):
        assert run(*words)[0] == 2
    entries = Ledger(load_settings(tmp_path).ledger).entries()
    changed = [entry["sentence"] for entry in entries if entry["event"] == "readers"]
    assert len(changed) == 2
    assert all(LINS in sentence for sentence in changed)
