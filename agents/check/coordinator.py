"""What an installation dials out to: whether coordinator and Prefect answer, take its
secrets, and show the keys that are pinned here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from agents.check.findings import OK, WARN, WRONG, Finding
from agents.check.network import check_proxy, opened_tls
from agents.check.pins import own_fingerprint
from agents.site.coordinator_told import CoordinatorTold
from agents.site.policy import spoken_here
from agents.site.settings import LOOPBACK, SiteSettings
from protocol import VERSION
from protocol.machine.clock import LARGEST_ERROR_SECONDS
from protocol.machine.installed import python_here
from protocol.tls import obstacle
from protocol.versions import (
    SPOKEN,
    Window,
    is_older,
    lag_between,
    other_version_remedy,
    upgrade_command,
)


def check_coordinator(
    client: httpx.Client, settings: SiteSettings, *, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """It answers, in time and version, takes the token, and shows the keys that are
    pinned here.
    """
    yield from _check_encrypted("coordinator", "coordinator_url", client)
    health = _get(client, "health")
    is_reached = isinstance(health, httpx.Response)
    yield from check_proxy(settings, is_reached=is_reached)
    if isinstance(health, Finding):
        yield opened_tls(settings) or health
        return
    yield _health_finding(health)
    yield check_clock(health.headers.get("Date"), now=now())
    yield check_version(health)
    yield from check_protocol(health, settings)
    yield from _check_membership(client, settings)


def _check_encrypted(check: str, key: str, client: httpx.Client) -> Iterator[Finding]:
    url = client.base_url
    if url.scheme == "http" and url.host not in LOOPBACK:
        remedy = f"Ask the operator for an https address and write it as {key}."
        yield Finding(
            check, WARN, f"{key} is not https: secrets travel readably.", remedy
        )


def _get(
    client: httpx.Client,
    path: str,
    *,
    check: str = "coordinator",
    options: dict[str, Any] | None = None,
) -> httpx.Response | Finding:
    try:
        return client.get(path, **(options or {}))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        between = obstacle(error)
        if between is not None:
            return Finding(check, WRONG, between.sentence, between.remedy)
        remedy = "Check the address in settings.toml, the network, the proxy and ca_file; ask the operator if it runs."
        return Finding(
            check,
            WRONG,
            f"{client.base_url} does not answer ({type(error).__name__}).",
            remedy,
        )


def _health_finding(answer: httpx.Response) -> Finding:
    if answer.status_code == 200:
        return Finding("coordinator", OK, "Answers and is ready.")
    health_body = _body(answer)
    if answer.status_code == 503 and "data" in health_body:
        reason = health_body.get("message") or ""
        sentence = f"Answers, but is not ready yet. {reason}".strip()
        return Finding("coordinator", WARN, sentence, "Wait, or ask the operator.")
    sentence = f"What answers is no coordinator (HTTP status {answer.status_code})."
    remedy = "Check coordinator_url, and what stands between (proxy, TLS)."
    return Finding("coordinator", WRONG, sentence, remedy)


def check_clock(date: str | None, *, now: datetime) -> Finding:
    """The clocks here and at the coordinator differ by a few seconds at most; `date` is
    HTTP's Date header, which has no parts of a second.
    """
    try:
        coordinator_time = parsedate_to_datetime(date or "")
        seconds = (now - coordinator_time).total_seconds()
    except (TypeError, ValueError):
        sentence = "The coordinator did not tell its time."
        return Finding("clock", WARN, sentence, "Compare the clocks yourself.")
    if abs(int(seconds)) <= LARGEST_ERROR_SECONDS:
        return Finding("clock", OK, "Agrees with the coordinator's.")
    direction = "ahead of" if seconds > 0 else "behind"
    sentence = (
        f"This clock is {abs(round(seconds))} seconds {direction} the coordinator's."
    )
    return Finding(
        "clock", WARN, sentence, "Turn on time synchronisation (NTP) on both machines."
    )


def check_version(health: httpx.Response) -> Finding:
    """Both sides run the same version, or one that speaks the same protocol."""
    coordinator = CoordinatorTold.of_answer(_body(health).get("data"))
    if coordinator is None:
        sentence = f"This is {VERSION}; the coordinator did not tell its version."
        return Finding("version", WARN, sentence, "Check later.")
    if coordinator.version == VERSION:
        return Finding("version", OK, f"{VERSION}, as at the coordinator.")
    sentence = f"This is {VERSION}, the coordinator runs {coordinator.version}."
    remedy = other_version_remedy(VERSION, coordinator.version, python_here())
    # The coordinator is the first to be upgraded: `upgrade` stops at what is wrong.
    state = WARN if is_older(VERSION, coordinator.version) else WRONG
    return Finding("version", state, sentence, remedy)


def check_protocol(health: httpx.Response, settings: SiteSettings) -> Iterator[Finding]:
    """Both sides have a protocol number in common, and neither lags.

    That this agent lags within the window is a notice. Outside of it no order is
    possible, and behind an older coordinator none either, once all agents are upgraded.
    """
    coordinator = CoordinatorTold.of_answer(_body(health).get("data"))
    if coordinator is None:
        return
    speaks = spoken_here(settings.policy)
    lag = lag_between(
        speaks, coordinator.speaks, coordinator.version, python=python_here()
    )
    if lag is None:
        yield Finding("protocol", OK, f"Speaks {speaks}, as the coordinator.")
    else:
        is_wrong = lag.is_outside or lag.who == "coordinator"
        state = WRONG if is_wrong else WARN
        yield Finding("protocol", state, lag.sentence, lag.remedy)


def _check_membership(
    client: httpx.Client, settings: SiteSettings
) -> Iterator[Finding]:
    token = settings.secret("token")
    headers = {"Authorization": f"Bearer {token}"}
    answer = _get(client, "hospitals", options={"headers": headers})
    if isinstance(answer, Finding):
        yield answer
    elif answer.status_code in (401, 403):
        token_path = settings.state / "token"
        remedy = f"Ask the operator for a new agent token and put it into {token_path}, mode 0600."
        yield Finding(
            "token", WRONG, "The coordinator does not accept this token.", remedy
        )
    elif answer.status_code != 200:
        remedy = "Ask the operator for the coordinator's log."
        yield Finding(
            "coordinator",
            WRONG,
            f"GET /hospitals gives HTTP status {answer.status_code}.",
            remedy,
        )
    else:
        yield Finding("token", OK, "The coordinator accepts it.")
        yield from check_registry(_body(answer), settings)


def check_registry(body: dict[str, Any], settings: SiteSettings) -> Iterator[Finding]:
    """The coordinator knows this hospital, and shows the same keys as are pinned here."""
    hospitals = body["data"]["hospitals"]
    fingerprints = {
        hospital["user_id"]: hospital.get("fingerprint") for hospital in hospitals
    }
    if settings.user_id not in fingerprints:
        remedy = f"Check user_id, or ask the operator for `./run server add-hospital` of {settings.user_id}."
        yield Finding(
            "registry",
            WRONG,
            f"The coordinator knows no hospital {settings.user_id}.",
            remedy,
        )

    yield from _other_versions(hospitals, settings)
    yield from _other_protocols(hospitals, settings)

    # A coordinator that shows one hospital another's key could read what is sealed to
    # it (decision 16).
    pinned = {
        partner.user_id: partner.fingerprint for partner in settings.partners.values()
    }
    pinned[settings.user_id] = own_fingerprint(settings)
    for user_id, fingerprint in pinned.items():
        shown_fingerprint = fingerprints.get(user_id)
        if fingerprint and shown_fingerprint and shown_fingerprint != fingerprint:
            yield _other_key(settings, user_id)


def _other_versions(
    hospitals: list[dict[str, Any]], settings: SiteSettings
) -> Iterator[Finding]:
    """Of the hospitals that are pinned here, whose agents run another version."""
    for hospital in hospitals:
        version = hospital.get("agent_version")
        if hospital["user_id"] in settings.partners and version not in (None, VERSION):
            user_id = hospital["user_id"]
            sentence = f"The agent of hospital {user_id} was {version} when it last connected; this is {VERSION}."
            newest = VERSION if is_older(version, VERSION) else version
            whose = "Its" if newest == VERSION else "This hospital's"
            remedy = f"{whose} IT upgrades: {upgrade_command(newest)}. Until then orders may fail."
            yield Finding("version", WARN, sentence, remedy)


def _other_protocols(
    hospitals: list[dict[str, Any]], settings: SiteSettings
) -> Iterator[Finding]:
    """Of the hospitals that are pinned here, whose agents lag in what they speak."""
    for hospital in hospitals:
        newest, oldest = hospital.get("protocol"), hospital.get("oldest_protocol")
        if (
            hospital["user_id"] not in settings.partners
            or newest is None
            or oldest is None
        ):
            continue
        user_id = hospital["user_id"]
        window = Window(oldest, newest)
        if newest < SPOKEN.newest:
            is_wrong = not window.meets(SPOKEN)
            effect = "are refused" if is_wrong else f"are written in {newest}"
            sentence = (
                f"The agent of hospital {user_id} speaks protocol {window}, this one {SPOKEN}:"
                f" orders with it {effect}."
            )
            remedy = f"Its IT upgrades: {upgrade_command(VERSION)}."
            yield Finding("protocol", WARN, sentence, remedy)


def _other_key(settings: SiteSettings, user_id: int) -> Finding:
    if user_id == settings.user_id:
        sentence = "The coordinator shows another key for this hospital than the one in its vault."
        start = "Start the agent, which presents its key."
        remedy = (
            f"{start} If this stays, tell the operator: somebody may use your name."
        )
    else:
        sentence = f"The coordinator shows another key for hospital {user_id} than the one pinned here."
        remedy = "Compare fingerprints by telephone. Replace the pin only if that hospital's keys were renewed."
    return Finding("registry", WRONG, sentence, remedy)


def check_prefect(client: httpx.Client, settings: SiteSettings) -> Iterator[Finding]:
    """Prefect answers through the coordinator, and has this hospital's pool."""
    token = settings.secret("token")
    headers = {"Authorization": f"Bearer {token}"}
    pool_path = f"work_pools/{settings.pool}"
    pool = _get(client, pool_path, check="prefect", options={"headers": headers})
    if isinstance(pool, Finding):
        yield pool
        return
    if pool.status_code in (200, 404):
        yield Finding("prefect", OK, "Answers, through the coordinator.")
    yield _pool_finding(pool, settings)


def _pool_finding(answer: httpx.Response, settings: SiteSettings) -> Finding:
    if answer.status_code in (401, 403):
        sentence = "The coordinator does not let this token ask Prefect."
        token_path = settings.state / "token"
        remedy = f"Ask the operator for a new agent token and put it into {token_path}."
        return Finding("prefect", WRONG, sentence, remedy)
    if answer.status_code in (502, 503):
        sentence = "The coordinator's Prefect server does not answer."
        return Finding("prefect", WRONG, sentence, "Wait, or ask the operator.")
    if answer.status_code == 404:
        remedy = (
            f"Ask the operator for `./run server add-hospital` of {settings.user_id}."
        )
        return Finding(
            "pool", WRONG, f"Prefect has no work pool {settings.pool}.", remedy
        )
    pool_body = _body(answer)
    if answer.status_code != 200 or pool_body.get("type") != "hospital":
        remedy = "Ask the operator to make it again with `./run server add-hospital`."
        return Finding(
            "pool", WRONG, f"{settings.pool} is no work pool of type hospital.", remedy
        )
    if pool_body.get("is_paused"):
        sentence = f"The work pool {settings.pool} is paused."
        return Finding("pool", WARN, sentence, "Ask the operator to resume it.")
    return Finding("pool", OK, f"Work pool {settings.pool} is there.")


def _body(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
