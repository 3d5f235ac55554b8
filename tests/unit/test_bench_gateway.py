"""What `./run bench gateway` says of its pairs, and that its other agents have no part
of the gateway.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.site.settings import SiteSettings
from benchmarks.direct_agent import part_without_gateway, prefect_environment
from benchmarks.gateway import Pair, compare
from deployments.local.federation import part_of_site

PREFECT, AUTH = "http://127.0.0.1:4200/api", "admin:secret"


def pairs(*ratios: float) -> list[Pair]:
    return [Pair(gateway=2 * ratio, direct=2.0) for ratio in ratios]


@pytest.mark.parametrize(
    ("ratios", "is_met"),
    [
        # Pairs that are alike: five parts in a hundred decide.
        ((1.04, 1.04, 1.04), True),
        ((1.06, 1.06, 1.06), False),
        # Half of them within 0.04 of 1.07: twice that is more than five.
        ((1.03, 1.07, 1.11), True),
        # Half of them within 0.03 of 1.07.
        ((1.04, 1.07, 1.10), False),
        # One disturbed order makes the limit no wider.
        ((1.07, 1.07, 1.07, 1.07, 4.0), False),
        ((0.5, 0.5, 0.5), True),
    ],
)
def test_the_aim_is_the_wider_of_five_percent_and_twice_the_spread(
    ratios: tuple[float, ...], is_met: bool
) -> None:
    assert compare(pairs(*ratios)).is_met == is_met


def test_medians_are_of_each_way_by_itself() -> None:
    found = compare([Pair(1.0, 4.0), Pair(2.0, 5.0), Pair(9.0, 1.0)])
    assert (found.gateway, found.direct) == (2.0, 4.0)
    assert found.ratio == 0.5


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    token = tmp_path / "state" / "token"
    token.parent.mkdir()
    token.write_text("own-token")
    token.chmod(0o600)
    return SiteSettings(
        tmp_path, 2, "a", "http://127.0.0.1:5000", "duckdb://", token.parent
    )


def test_the_other_agent_has_prefects_address_and_string_and_no_token(
    site: SiteSettings,
) -> None:
    part = part_without_gateway(site, PREFECT, AUTH)
    found = prefect_environment(site, part.environment)
    assert found["PREFECT_API_URL"] == PREFECT
    assert found["PREFECT_API_AUTH_STRING"] == AUTH
    assert "own-token" not in json.dumps(found)
    assert "/prefect/api" not in json.dumps(found)
    # All else is as it is in use.
    usual = site.environment()
    changed = {name for name in {*usual, *found} if usual.get(name) != found.get(name)}
    assert changed == {
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
        "PREFECT_CLIENT_CUSTOM_HEADERS",
    }
    assert part.log == part_of_site(site).log
