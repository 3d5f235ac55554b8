"""Whether this hospital has keys, and has pinned those of every hospital that its policy
names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agents.check.findings import OK, WARN, WRONG, Finding
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from protocol.errors import ConsiliumError

_FINGERPRINT = re.compile(r"([0-9a-f]{4}-){7}[0-9a-f]{4}")


def check_keys(settings: SiteSettings) -> Iterator[Finding]:
    """The long-lived keys are there and can be read. They are not made here."""
    if not (settings.vault / "identity.json").exists():
        remedy = "Run `./run agent keys`, or start the agent."
        yield Finding("keys", WARN, "This hospital has no keys yet.", remedy)
        return
    yield Finding("keys", OK, f"Fingerprint {own_fingerprint(settings)}.")


def check_partners(settings: SiteSettings) -> Iterator[Finding]:
    """Every hospital that the policy names is pinned, each by a fingerprint of its own."""
    problems = [*_pin_problems(settings), *_unpinned(settings)]
    yield from problems
    if not problems:
        pinned_names = ", ".join(partner.name for partner in settings.partners.values())
        yield Finding("partners", OK, f"Pinned: {pinned_names or 'nobody'}.")


def _pin_problems(settings: SiteSettings) -> Iterator[Finding]:
    """Pins that are no fingerprints, and one fingerprint under two names: one of the
    two was never compared.
    """
    # Its own first: a partner that is pinned with it was never compared either.
    pinned_as = {own_fingerprint(settings): "this hospital itself"}
    for partner in settings.partners.values():
        label = f"{partner.name} ({partner.user_id})"
        if not _FINGERPRINT.fullmatch(partner.fingerprint):
            remedy = (
                "Eight groups of four hexadecimal digits; ask by telephone for what `./run agent keys`"
                " prints there."
            )
            yield Finding(
                "partners", WRONG, f"The fingerprint of {label} is not one.", remedy
            )
        elif partner.fingerprint in pinned_as:
            remedy = "Ask for its own fingerprint by telephone; each hospital has another one."
            sentence = f"{label} is pinned with the fingerprint of {pinned_as[partner.fingerprint]}."
            yield Finding("partners", WRONG, sentence, remedy)
        pinned_as.setdefault(partner.fingerprint, label)


def _unpinned(settings: SiteSettings) -> Iterator[Finding]:
    try:
        orders = load_policy(settings.policy).orders
    except ConsiliumError:
        return  # the policy's own check says so
    named = {*orders.initiators, *orders.receivers}
    pinned = {settings.user_id, *settings.partners}
    for user_id in sorted(named - pinned):
        remedy = "Ask it by telephone for its fingerprint and add it to settings.toml under [[partners]]."
        yield Finding(
            "partners",
            WRONG,
            f"The policy names hospital {user_id}, which is not pinned.",
            remedy,
        )


def own_fingerprint(settings: SiteSettings) -> str:
    """Empty where there are no keys yet: a check makes none."""
    if not (settings.vault / "identity.json").exists():
        return ""
    return Vault(settings.vault).identity().public.fingerprint
