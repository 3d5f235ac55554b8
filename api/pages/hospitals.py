"""Hospitals: who takes part, who is there, and what each one's policy lets others do.

A hospital reports the rules of its policy and none of its names of tables, columns and
files (decision 50).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nicegui import ui
from pydantic import ValidationError

from api.pages.frame import (
    Safe,
    chip,
    facts,
    follow,
    frame,
    html,
    moment,
    save_rows,
    shown,
    table,
)
from api.pages.visit import Visit
from protocol.policy import (
    COHORT,
    CohortTold,
    InferenceTold,
    OrdersTold,
    PolicyTold,
    StatisticsTold,
)
from protocol.statistics_request import JOINED, POOLED
from protocol.versions import SPOKEN

SCORING = {
    "none": "The coordinator learns nothing of single gradients.",
    "round": "Lengths and angles of the gradients of one round.",
    "full": "Lengths and angles, also from one round to the next.",
}


async def show_hospitals(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("Hospitals")):
        hospitals = await _rows(visit)
        tiles = html(_tiles(visit, hospitals))
        grid = html(_grid(visit, hospitals))
        html(f"<h2>{shown(t('What each policy lets others do'))}</h2>")
        policies = html(_policies(visit, hospitals))
        save = ui.button(
            t("Save numbers (CSV)"),
            on_click=lambda: save_rows("hospitals", _numbers(hospitals)),
        )
        save.props("no-caps outline dense").style("align-self:flex-start")
        html(
            f'<p class="soft">{shown(t(HINT))}</p>'
            f'<p class="soft">{shown(t("Compare fingerprints by telephone: one shown here proves nothing."))}</p>'
        )

        async def refresh() -> None:
            # In place, since the button saves this very list.
            hospitals[:] = await _rows(visit)
            tiles.set_content(_tiles(visit, hospitals))
            grid.set_content(_grid(visit, hospitals))
            policies.set_content(_policies(visit, hospitals))

        follow(visit, "hospitals", refresh)


REGROUP = "May be asked again with other hospitals over the same rows"
SPARSE_MASKS = "Of more than 64 hospitals masks with some of the others only"

# Of joint statistics, by the name of the rule that allows it.
MORE = {
    "extremes": "Tells smallest and largest values",
    "exact_quantiles": "Tells exact quantiles",
    "row_expressions": "Computes row by row with other hospitals' columns",
    "disclose": "Answers may pass through the coordinator's memory",
    "own_totals": "Opens sums of its rows alone",
    "regroup": REGROUP,
    "sparse_masks": SPARSE_MASKS,
}
# Whose rows have to be as many, by the word of the rule.
CELLS = {
    "each": "At least {n} rows",
    "pooled": "At least {n} rows, in a group those of all hospitals together",
}

HINT = (
    "These are the rules that each agent has told of its policy. The policy itself stays at the hospital and decides "
    "there, and which tables, columns and files it opens is told to nobody."
)


async def _rows(visit: Visit) -> list[dict[str, Any]]:
    answer = await visit.data("/hospitals")
    hospitals: list[dict[str, Any]] = answer["hospitals"]
    return hospitals


def _tiles(visit: Visit, hospitals: list[dict[str, Any]]) -> Safe:
    online = [hospital for hospital in hospitals if hospital["online"]]
    return facts([(visit.t("Online"), f"{len(online)} / {len(hospitals)}")])


def _grid(visit: Visit, hospitals: list[dict[str, Any]]) -> Safe:
    t = visit.t
    heads = [
        "Hospital",
        "Number",
        "State",
        "Last seen",
        "Agent",
        "Protocol",
        "Fingerprint",
    ]
    rows = []
    for hospital in hospitals:
        row = (
            hospital["name"],
            hospital["user_id"],
            _state(visit, hospital),
            moment(hospital["last_seen"]),
            hospital["agent_version"] or "-",
            _protocol(visit, hospital),
            hospital["fingerprint"] or "-",
        )
        rows.append(row)
    return table([t(head) for head in heads], rows)


def _protocol(visit: Visit, hospital: dict[str, Any]) -> str:
    """The newest that its agent speaks, and of what where it lags."""
    newest = hospital["protocol"]
    if newest is None:
        return "-"
    if newest < SPOKEN.newest:
        return visit.t("{n} of {window}", n=newest, window=str(SPOKEN))
    return str(newest)


def _state(visit: Visit, hospital: dict[str, Any]) -> Safe:
    """Whether it is online, and what its agent reports is wrong, in the API's own
    sentences.
    """
    if hospital["online"]:
        state_name = "online"
    elif hospital["last_seen"]:
        state_name = "away"
    else:
        state_name = "never connected"
    troubles = [visit.waiting(trouble) for trouble in hospital["troubles"]]
    return _lines([chip(visit, state_name), *troubles])


def _policies(visit: Visit, hospitals: list[dict[str, Any]]) -> Safe:
    """The rules as sentences, a row for each hospital."""
    t = visit.t
    names = {row["user_id"]: row["name"] for row in hospitals}
    heads = [
        "Hospital",
        "Orders",
        "Scores",
        "Predictions",
        "Joint statistics",
        "Cohorts",
    ]
    rows = []
    for hospital in hospitals:
        policy = told_policy(hospital["policy"])
        if policy is None:
            rule_cells = [t("nothing told")] * 5
        else:
            rule_cells = [
                _lines(order_lines(visit, policy.orders, names)),
                _scores(visit, policy.orders),
                _inference(visit, policy.inference),
                _statistics(visit, policy.statistics),
                _cohorts(visit, policy.cohorts),
            ]
        rows.append([hospital["name"], *rule_cells])
    grid = table([t(head) for head in heads], rows)
    return Safe(f'<div class="even">{grid}</div>')


def told_policy(policy: Any) -> PolicyTold | None:
    """The rules that an agent has told; None for what an earlier version of the
    coordinator stored in another form.
    """
    if policy is None:
        return None
    try:
        return PolicyTold.model_validate(policy)
    except ValidationError:
        return None


def order_lines(visit: Visit, rules: OrdersTold, names: dict[int, str]) -> list[str]:
    """What a policy lets orders of training do, a sentence for each rule."""
    t = visit.t
    lines = [
        # These two come first: the form of an order leaves them out.
        t("From: {names}", names=_users(visit, rules.initiators, names)),
        t("Results to: {names}", names=_users(visit, rules.receivers, names)),
        t("Methods: {words}", words=_words(visit, rules.methods)),
        t("Models: {words}", words=_words(visit, rules.model_types)),
        t("At least {n} hospitals in any sum", n=rules.min_hospitals),
        t("At least {n} rows, unless a table sets its own", n=rules.min_rows),
        t(
            "At most {n} rounds in {days} days",
            n=rules.max_rounds,
            days=rules.budget_days,
        ),
    ]
    oldest = rules.oldest_protocol
    if oldest is not None and oldest > SPOKEN.oldest:
        lines.append(t("Written in protocol {n} or newer", n=oldest))
    if rules.regroup:
        lines.append(t(REGROUP))
    if rules.approval == "manual":
        lines.append(t("A person there decides on every order"))
    if rules.hospital_sums:
        lines.append(t("May tell the hospitals of an order what its rows alone give"))
    if rules.sparse_masks:
        lines.append(t(SPARSE_MASKS))
    return lines


def _scores(visit: Visit, rules: OrdersTold) -> Safe:
    t = visit.t
    lines = [f"{t(rules.scoring)}: {t(SCORING[rules.scoring])}"]
    if rules.score_readers == "operator" and rules.scoring != "none":
        lines.append(t("Read by the operator only"))
    if rules.scoring != "none":
        n_least = rules.min_scored_coefficients
        lines.append(t("Layers of at least {n} coefficients", n=n_least))
    return _lines(lines)


def _inference(visit: Visit, rules: InferenceTold) -> Safe:
    t = visit.t
    if not rules.allowed:
        return _lines([t("no")])
    where = t("Only at the hospital")
    if rules.return_predictions:
        where = t("Predictions may pass through the coordinator's memory")
    return _lines([t("For its own users"), where])


def _methods(visit: Visit, allowed: Sequence[str]) -> str:
    """All of a long list are said in a word."""
    all_methods = {*POOLED, *JOINED}
    if all_methods <= set(allowed):
        return visit.t("all {n}", n=len(all_methods))
    return _words(visit, allowed)


def _statistics(visit: Visit, rules: StatisticsTold | None) -> Safe:
    t = visit.t
    if rules is None:
        return _lines([t("no")])
    lines = [
        t("Methods: {words}", words=_methods(visit, rules.methods)),
        t("At least {n} hospitals in any answer", n=rules.min_providers),
        t(CELLS.get(rules.cells, CELLS["each"]), n=rules.min_rows),
        t("The same people compared once in {n} days", n=rules.threshold_days),
    ]
    allowed = rules.model_dump()
    for rule_name, rule_text in MORE.items():
        if allowed[rule_name]:
            lines.append(t(rule_text))
    return _lines(lines)


def _cohorts(visit: Visit, cohorts: Sequence[CohortTold]) -> Safe:
    """A line for each."""
    return _lines(cohort_lines(cohorts) or [visit.t("none told")])


def cohort_lines(cohorts: Sequence[CohortTold]) -> list[str]:
    """How an order names each, and what its hospital says that it is."""
    lines = []
    for cohort in cohorts:
        description = f": {cohort.description}" if cohort.description else ""
        lines.append(f"{COHORT}{cohort.name}{description}")
    return lines


def _users(visit: Visit, users: Sequence[int], names: dict[int, str]) -> str:
    user_names = [names.get(user_id, str(user_id)) for user_id in users]
    return _words(visit, user_names)


def _words(visit: Visit, words: Sequence[str]) -> str:
    return ", ".join(words) or visit.t("none")


def _lines(lines: list[str]) -> Safe:
    return Safe("<br>".join(map(shown, lines)))


def _numbers(hospitals: list[dict[str, Any]]) -> list[list[Any]]:
    """The rows of the CSV file: as the API gives them, a policy as one cell of JSON."""
    field_names = list(hospitals[0]) if hospitals else []
    rows: list[list[Any]] = [field_names]
    for hospital in hospitals:
        rows.append([_plain(hospital[field_name]) for field_name in field_names])
    return rows


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
