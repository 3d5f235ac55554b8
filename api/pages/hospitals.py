"""Hospitals: who takes part, who is there, and how far each lets the coordinator look."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from api.pages.frame import Safe, chip, facts, follow, frame, html, moment, save_rows, shown, table
from api.pages.visit import Visit

POLICY = {
    "none": "The coordinator learns nothing of single gradients.",
    "round": "Lengths and angles of the gradients of one round.",
    "full": "Lengths and angles, also from one round to the next.",
}


async def show_hospitals(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("Hospitals")):
        found = await _rows(visit)
        tiles, grid = html(_tiles(visit, found)), html(_grid(visit, found))
        ui.button(t("Save numbers (CSV)"), on_click=lambda: save_rows("hospitals", _numbers(found))).props(
            "no-caps outline dense"
        ).style("align-self:flex-start")
        html(
            f'<p class="soft">{shown(t(HINT))}</p>'
            f'<p class="soft">{shown(t("Compare fingerprints by telephone: one shown here proves nothing."))}</p>'
        )

        async def refresh() -> None:
            found[:] = await _rows(visit)
            tiles.set_content(_tiles(visit, found))
            grid.set_content(_grid(visit, found))

        follow(visit, "hospitals", refresh)


HINT = (
    "A hospital's policy is its own file, and only the hospital has it. What is known here is the scoring level that "
    "its agent has told; what else it forbids shows when it refuses an order, with the rule."
)


async def _rows(visit: Visit) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await visit.data("/hospitals"))["hospitals"]
    return found


def _tiles(visit: Visit, found: list[dict[str, Any]]) -> Safe:
    online = sum(row["online"] for row in found)
    return facts([(visit.t("Online"), f"{online} / {len(found)}")])


def _grid(visit: Visit, found: list[dict[str, Any]]) -> Safe:
    t = visit.t
    heads = ["Hospital", "Number", "State", "Last seen", "Agent", "Scoring", "Fingerprint"]
    rows = [
        (
            row["name"],
            row["user_id"],
            chip(visit, "online") if row["online"] else chip(visit, "away" if row["last_seen"] else "never connected"),
            moment(row["last_seen"]),
            row["agent_version"] or "-",
            Safe(f'<b>{shown(t(row["scoring"]))}</b> <span class="soft">{shown(t(POLICY[row["scoring"]]))}</span>'),
            row["fingerprint"] or "-",
        )
        for row in found
    ]
    return table([t(head) for head in heads], rows)


def _numbers(found: list[dict[str, Any]]) -> list[list[Any]]:
    names = list(found[0]) if found else []
    return [names, *([row[name] for name in names] for row in found)]
