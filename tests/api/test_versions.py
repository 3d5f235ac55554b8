"""Who lags behind: what GET /hospitals says of agents of another version than the
coordinator. tests/federation/test_installed.py has two versions side by side.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocol import VERSION
from protocol.errors import Conflict, ProtocolViolation
from protocol.versions import (
    FEATURES,
    OLDEST_PROTOCOL,
    PROTOCOL,
    SPOKEN,
    UNSAID,
    Window,
    common_protocol,
    document_version,
    features_of,
    has_feature,
    is_older,
    lag_between,
    numbers_of,
    protocol_of_document,
)
from tests.api.conftest import Coordinator
from tests.made_sites import order_body

THIS = {"protocol": PROTOCOL, "oldest_protocol": OLDEST_PROTOCOL}
"""What an agent of this release tells."""


def present(
    coordinator: Coordinator, version: str = VERSION, user: int = 2, **speaks: Any
) -> None:
    """As an agent does when it connects; without `speaks` as one of protocol 2."""
    (known,) = [row for row in coordinator.store.hospitals.all() if row.user_id == user]
    told = {"identity": known.identity, "version": version, **speaks}
    answer = coordinator.call("PUT", "/hospitals/me", f"agent-{user}", json=told)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["version"] == VERSION
    assert answer.json()["data"]["protocol"] == PROTOCOL
    assert answer.json()["data"]["oldest_protocol"] == OLDEST_PROTOCOL


def shown(coordinator: Coordinator) -> dict[str, Any]:
    rows = coordinator.call("GET", "/hospitals").json()["data"]["hospitals"]
    (row,) = [row for row in rows if row["user_id"] == 2]
    found: dict[str, Any] = row
    return found


def troubles(coordinator: Coordinator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shown(coordinator)["troubles"]
    return found


def test_an_agent_of_another_version_is_named_with_what_to_do(
    coordinator: Coordinator,
) -> None:
    """Nobody has polled: it is told of one that is away, too."""
    present(coordinator, **THIS)
    assert troubles(coordinator) == []
    present(coordinator, "0.0.1", **THIS)
    (found,) = troubles(coordinator)
    assert found["cause"] == "version"
    assert f"is 0.0.1, the coordinator {VERSION}." in found["message"]
    bundle = f"consilium-agent-{VERSION}-py3.NN.tar"
    assert f"upgrade --site FOLDER --bundle {bundle}" in found["message"]
    present(coordinator, "99.0.0", **THIS)
    (found,) = troubles(coordinator)
    assert "operator upgrades the coordinator to 99.0.0" in found["message"]
    assert "upgrade --back" in found["message"]
    present(coordinator, **THIS)
    assert troubles(coordinator) == []


@pytest.mark.parametrize("version", ["1", "<b>1.0.0</b>", "1.0.0\n", "0.0.1 "])
def test_what_is_no_version_is_repeated_in_no_sentence(
    version: str, coordinator: Coordinator
) -> None:
    present(coordinator, version, **THIS)
    assert troubles(coordinator) == []


@pytest.mark.parametrize(
    ("version", "other", "older"),
    [
        ("1.9.0", "1.10.0", True),
        ("1.10.0", "1.9.0", False),
        ("1.10.0", "1.10.0", False),
        ("1.9.9", "2.0.0", True),
        ("1.0", "1.0.1", False),
        ("1.0.0", "newest", False),
    ],
)
def test_which_version_is_the_older_one(version: str, other: str, older: bool) -> None:
    assert is_older(version, other) == older


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.x", "١.٢.٣"]
)
def test_what_is_no_version_of_a_release(text: str) -> None:
    assert numbers_of(text) is None


# What they speak


def test_an_agent_that_lags_within_the_window_is_a_notice(
    coordinator: Coordinator,
) -> None:
    """One that does not say what it speaks is of before there was more than one."""
    present(coordinator)
    (found,) = troubles(coordinator)
    assert found["cause"] == "version"
    assert f"speaks protocol {UNSAID} of {SPOKEN}" in found["message"]
    assert f"--bundle consilium-agent-{VERSION}-py3.NN.tar" in found["message"]
    row = shown(coordinator)
    assert (row["protocol"], row["oldest_protocol"]) == (UNSAID, UNSAID)
    present(coordinator, "0.0.1")
    (found,) = troubles(coordinator)
    assert "is 0.0.1" in found["message"]
    assert f"speaks protocol {UNSAID} of {SPOKEN}" in found["message"]


@pytest.mark.parametrize(
    ("oldest", "newest", "remedy"),
    [
        (1, OLDEST_PROTOCOL - 1, "The hospital's IT upgrades the agent"),
        (PROTOCOL + 1, PROTOCOL + 2, "The operator upgrades the coordinator"),
    ],
)
def test_an_agent_outside_of_the_window_is_named_and_gets_no_order(
    coordinator: Coordinator, oldest: int, newest: int, remedy: str
) -> None:
    present(coordinator, protocol=newest, oldest_protocol=oldest)
    (found,) = troubles(coordinator)
    assert found["cause"] == "protocol"
    assert remedy in found["message"]
    answer = order(coordinator)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "protocol")
    assert error_of(answer)["detail"]["hospitals"] == [2]
    assert coordinator.call("GET", "/orders").json()["data"]["orders"] == []


@pytest.mark.parametrize(
    "speaks",
    [
        {"protocol": 0},
        {"protocol": 256},
        {"protocol": "three"},
        {"protocol": 2, "oldest_protocol": 3},
        {"protocol": PROTOCOL, "oldest_protocol": 0},
    ],
)
def test_what_is_no_window_is_no_enrolment(
    coordinator: Coordinator, speaks: dict[str, Any]
) -> None:
    (known,) = [row for row in coordinator.store.hospitals.all() if row.user_id == 2]
    told = {"identity": known.identity, "version": VERSION, **speaks}
    answer = coordinator.call("PUT", "/hospitals/me", "agent-2", json=told)
    assert answer.status_code == 422


def order(coordinator: Coordinator, **changes: Any) -> Any:
    body = order_body((4, 2, 3), **changes)
    return coordinator.call("POST", "/model/train", json=body)


def error_of(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["data"]["error"]
    return found


def newest_document(coordinator: Coordinator) -> str:
    newest = coordinator.store.orders.get(
        max(
            row["order_id"]
            for row in coordinator.call("GET", "/orders").json()["data"]["orders"]
        )
    )
    return newest.document


def test_an_order_is_written_in_what_all_of_its_hospitals_speak(
    coordinator: Coordinator,
) -> None:
    for user in (2, 3, 4):
        present(coordinator, user=user, **THIS)
    assert order(coordinator).status_code == 200
    assert protocol_of_document(newest_document(coordinator)) == PROTOCOL
    present(coordinator, user=3)
    assert order(coordinator, purpose="another").status_code == 200
    assert protocol_of_document(newest_document(coordinator)) == UNSAID


def test_a_policy_that_takes_the_newest_only_names_who_lags(
    coordinator: Coordinator,
) -> None:
    for user in (2, 4):
        present(coordinator, user=user, protocol=PROTOCOL, oldest_protocol=PROTOCOL)
    present(coordinator, user=3)
    answer = order(coordinator)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "protocol")
    assert error_of(answer)["detail"]["hospitals"] == [3]
    assert f"speaks protocol {UNSAID}" in error_of(answer)["sentence"]
    assert f"consilium-agent-{VERSION}-py3.NN.tar" in error_of(answer)["remedy"]


# What needs which number


@pytest.mark.parametrize("feature", FEATURES)
def test_what_needs_a_newer_number_names_who_lags(feature: str) -> None:
    needed = FEATURES[feature]
    before = Window(needed - 1, needed - 1)
    assert has_feature(feature, needed)
    assert not has_feature(feature, needed - 1)
    spoken = {2: SPOKEN, 3: before, 4: before}
    assert common_protocol(spoken) == needed - 1
    with pytest.raises(Conflict) as caught:
        common_protocol(spoken, {feature})
    assert caught.value.code == "protocol"
    assert caught.value.detail["hospitals"] == [3, 4]
    assert f"{feature} needs {needed}" in caught.value.sentence
    assert f"upgrade --site FOLDER --bundle consilium-agent-{VERSION}" in (
        caught.value.remedy
    )
    assert common_protocol({2: SPOKEN, 3: SPOKEN}, {feature}) == PROTOCOL


def test_fields_of_a_request_that_need_a_newer_number() -> None:
    asked = {"start_within_seconds": 60, "at_least": 3, "purpose": "x"}
    assert features_of(asked) == {"start_window"}
    assert features_of({"at_least": None, "start_within_seconds": None}) == set()
    document = {"version": 1, "request": asked}
    with pytest.raises(ProtocolViolation, match="start_window"):
        protocol_of_document(json.dumps(document))
    document["version"] = document_version(PROTOCOL)
    assert protocol_of_document(json.dumps(document)) == PROTOCOL


def test_a_coordinator_that_lags_is_named() -> None:
    own = Window(UNSAID, UNSAID)
    with pytest.raises(Conflict, match="upgrades the coordinator first"):
        common_protocol({2: Window(PROTOCOL, PROTOCOL)}, own=own)
    with pytest.raises(Conflict, match="upgrades the coordinator first"):
        common_protocol({2: SPOKEN}, {"start_window"}, own=own)


# Who lags behind whom


def test_who_lags() -> None:
    newer = Window(PROTOCOL, PROTOCOL + 1)
    beyond = Window(PROTOCOL + 1, PROTOCOL + 2)
    assert lag_between(SPOKEN, SPOKEN, VERSION) is None
    lag = lag_between(SPOKEN, newer, "9.0.0")
    assert lag is not None
    assert (lag.who, lag.is_outside) == ("agent", False)
    assert "consilium-agent-9.0.0-" in lag.remedy
    lag = lag_between(SPOKEN, beyond, "9.0.0")
    assert lag is not None
    assert (lag.who, lag.is_outside) == ("agent", True)
    lag = lag_between(newer, SPOKEN, VERSION)
    assert lag is not None
    assert (lag.who, lag.is_outside) == ("coordinator", False)
