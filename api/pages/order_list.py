"""Orders: the newest first, 50 to a page, each with its state and how far it is.
`order_view` shows one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from api.pages.frame import (
    Safe,
    bar,
    chip,
    follow,
    frame,
    html,
    link,
    moment,
    note,
    save_rows,
    shown,
    table,
)
from api.pages.question_words import METHODS
from api.pages.visit import Visit

PAGE = 50
KINDS = {
    "train": "training",
    "evaluate": "evaluation",
    "infer": "predictions",
    "statistics": "joint statistics",
    "external": "recorded elsewhere",
}
MODELS = {
    "lr": "Logistic regression",
    "linear": "Linear regression",
    "glm": "Generalised linear model",
    "cox": "Cox regression",
    "softmax": "Softmax",
    "mlp": "Multilayer perceptron",
    "cnn": "Convolutional network",
}


async def show_orders(visit: Visit, before: int | None) -> None:
    t = visit.t
    with frame(visit, t("Orders")):
        listing = await visit.data("/orders", limit=PAGE, before=before)
        names = await hospital_names(visit)
        grid = html(_page(visit, listing, names, before))
        save = ui.button(
            t("Save numbers (CSV)"),
            on_click=lambda: save_rows("orders", _numbers(listing)),
        )
        save.props("no-caps outline dense").style("align-self:flex-start")
        save.set_visibility(bool(listing["orders"]))

        async def refresh() -> None:
            listing.update(await visit.data("/orders", limit=PAGE, before=before))
            grid.set_content(_page(visit, listing, names, before))
            save.set_visibility(bool(listing["orders"]))

        follow(visit, "order", refresh)


async def hospital_names(visit: Visit) -> dict[int, str]:
    """Names by user id, as the API lists them."""
    answer = await visit.data("/hospitals")
    return {hospital["user_id"]: hospital["name"] for hospital in answer["hospitals"]}


def named(visit: Visit, user_id: int | None, names: dict[int, str]) -> str:
    """A hospital's name; its number where it has left since."""
    if user_id is None:
        return visit.t("operator")
    return names.get(user_id, f"{visit.t('Hospital')} {user_id}")


def members_of(order: Mapping[str, Any]) -> list[int]:
    """Who takes part: of an order that began with who was there, these alone."""
    members: list[int] = order["party"] or order["hospitals"]
    return members


def method_words(visit: Visit, order: Mapping[str, Any]) -> str:
    """The model and how it is protected, or what joint statistics ask, as far as an order
    has them.
    """
    model, method = order["model_type"], order["method"]
    if order["kind"] == "statistics":
        return visit.t(METHODS.get(method, method))
    labels = []
    if model:
        labels.append(visit.t(MODELS.get(model.lower(), model)))
    if method:
        labels.append(method)
    return ", ".join(labels) or "-"


def _page(
    visit: Visit, listing: dict[str, Any], names: dict[int, str], before: int | None
) -> Safe:
    t = visit.t
    if not listing["orders"]:
        new = link("/page/orders/new", t("New order"))
        return note(Safe(f"{shown(t('There is no order yet.'))} {new}"))
    heads = [
        "Order",
        "Kind",
        "State",
        "Progress",
        "Asked by",
        "Method",
        "Hospitals",
        "Created",
    ]
    rows = []
    for order in listing["orders"]:
        order_id = order["order_id"]
        kind_label = t(KINDS.get(order["kind"], order["kind"]))
        if order["name"]:
            kind_label = f"{kind_label}: {order['name']}"
        row = (
            link(f"/page/orders/{order_id}", order_id),
            kind_label,
            chip(visit, order["state"]),
            progress(visit, order),
            named(visit, order["user_id"], names),
            method_words(visit, order),
            len(order["hospitals"]) or "-",
            moment(order["created"]),
        )
        rows.append(row)
    grid = table([t(head) for head in heads], rows)
    return Safe(grid + _page_links(visit, listing["next"], before))


def progress(visit: Visit, order: dict[str, Any]) -> Safe:
    """Done of how many rounds or parts, as a bar and in figures."""
    n_done, n_parts = order["progress"]["done"], order["progress"]["of"]
    if n_parts is None or order["state"] == "pending":
        return Safe(n_done or "-")
    figures, n_drawn = f"{n_done} / {n_parts}", n_done
    if order["state"] == "success":
        n_drawn = n_parts
        # Training may converge before its last round.
        if n_done < n_parts:
            figures = visit.t("{n} of at most {most}", n=n_done, most=n_parts)
    return Safe(f"{shown(figures)} {bar(n_drawn, n_parts, visit.t('Progress'))}")


def _page_links(visit: Visit, older: int | None, before: int | None) -> str:
    links = []
    if before:
        links.append(link("/page/orders", visit.t("Newest")))
    if older:
        links.append(link(f"/page/orders?before={older}", visit.t("Older")))
    label = shown(visit.t("Pages"))
    return f'<nav class="row" aria-label="{label}">{" ".join(links)}</nav>'


def _numbers(listing: dict[str, Any]) -> list[list[Any]]:
    field_names = [
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
    rows = [field_names]
    for order in listing["orders"]:
        row = {field_name: order[field_name] for field_name in field_names}
        row["hospitals"] = " ".join(map(str, order["hospitals"]))
        rows.append(list(row.values()))
    return rows
