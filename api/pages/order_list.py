"""Orders: the newest first, 50 to a page, each with its state and how far it is."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from api.pages.frame import Safe, chip, follow, frame, html, link, moment, save_rows, shown, table
from api.pages.visit import Visit

PAGE = 50
KINDS = {
    "train": "training",
    "infer": "predictions",
    "statistics": "joint statistics",
    "external": "recorded elsewhere",
}


async def show_orders(visit: Visit, before: int | None) -> None:
    t = visit.t
    with frame(visit, t("Orders")):
        found = await visit.data("/orders", limit=PAGE, before=before)
        names = await hospital_names(visit)
        grid = html(_page(visit, found, names, before))
        ui.button(t("Save numbers (CSV)"), on_click=lambda: save_rows("orders", _numbers(found))).props(
            "no-caps outline dense"
        ).style("align-self:flex-start")

        async def refresh() -> None:
            found.update(await visit.data("/orders", limit=PAGE, before=before))
            grid.set_content(_page(visit, found, names, before))

        follow(visit, "order", refresh)


async def hospital_names(visit: Visit) -> dict[int, str]:
    """Names by user id, as the API lists them."""
    return {row["user_id"]: row["name"] for row in (await visit.data("/hospitals"))["hospitals"]}


def named(visit: Visit, user_id: int | None, names: dict[int, str]) -> str:
    return visit.t("operator") if user_id is None else names.get(user_id, f"{visit.t('Hospital')} {user_id}")


def _page(visit: Visit, found: dict[str, Any], names: dict[int, str], before: int | None) -> Safe:
    t, orders = visit.t, found["orders"]
    if not orders:
        return Safe(f'<p class="note">{shown(t("There is no order yet."))}</p>')
    heads = ["Order", "Kind", "State", "Progress", "Asked by", "Method", "Hospitals", "Created"]
    rows = [
        (
            link(f"/page/orders/{order['order_id']}", order["order_id"]),
            t(KINDS.get(order["kind"], order["kind"])) + (f": {order['name']}" if order["name"] else ""),
            chip(visit, order["state"]),
            progress(visit, order),
            named(visit, order["user_id"], names),
            " ".join(filter(None, (order["model_type"], order["method"]))) or "-",
            len(order["hospitals"]) or "-",
            moment(order["created"]),
        )
        for order in orders
    ]
    return Safe(table([t(head) for head in heads], rows) + _ways(visit, found["next"], before))


def progress(visit: Visit, order: dict[str, Any]) -> Safe:
    """Done of how many rounds or parts, as a bar and in figures."""
    done, of = order["progress"]["done"], order["progress"]["of"]
    if of is None or order["state"] == "pending":
        return Safe("-") if not done else Safe(str(done))
    share = 100 if order["state"] == "success" else min(100, round(100 * done / max(of, 1)))
    return Safe(
        f'{done} / {of} <span class="bar" role="progressbar" aria-valuenow="{share}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{shown(visit.t("Progress"))}"><i style="width:{share}%"></i></span>'
    )


def _ways(visit: Visit, older: int | None, before: int | None) -> str:
    ways = [link("/page/orders", visit.t("Newest"))] if before else []
    ways += [link(f"/page/orders?before={older}", visit.t("Older"))] if older else []
    return f'<nav class="row" aria-label="{shown(visit.t("Pages"))}">{" ".join(ways)}</nav>'


def _numbers(found: dict[str, Any]) -> list[list[Any]]:
    names = [
        "order_id",
        "kind",
        "name",
        "state",
        "user_id",
        "model_type",
        "method",
        "hospitals",
        "created",
        "updated",
    ]
    cells = [[order[name] for name in names] for order in found["orders"]]
    return [
        names,
        *([" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in row] for row in cells),
    ]
