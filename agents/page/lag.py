"""What the overview says where this agent and its coordinator do not speak the same."""

from __future__ import annotations

from typing import Any

from agents.page.words import say
from agents.site.coordinator_told import kept_in
from agents.site.policy import spoken_here
from agents.site.settings import SiteSettings
from protocol.versions import lag_between, upgrade_command


def lag_shown(settings: SiteSettings, language: str) -> str:
    """A sentence and what is done, by what the coordinator last said; "" where neither
    lags.
    """
    coordinator = kept_in(settings.state)
    if coordinator is None:
        return ""
    speaks = spoken_here(settings.policy)
    lag = lag_between(speaks, coordinator.speaks, coordinator.version)
    if lag is None:
        return ""
    where = "outside" if lag.is_outside else "within"
    facts: dict[str, Any] = {"own": speaks, "theirs": coordinator.speaks}
    facts["command"] = upgrade_command(coordinator.version)
    return say(language, f"lag.{where}.{lag.who}", **facts)
