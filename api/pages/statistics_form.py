"""A form that asks a question of joint statistics, once or on a schedule, checked as the API does."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from pydantic import ValidationError

from api.pages.form import Draft, Fields, number_or_text, show_body, show_buttons
from api.pages.frame import frame, html, note, shown
from api.pages.order_view import number_of
from api.pages.visit import Visit
from api.routes import schedules, statistics
from api.routes.schedules import ScheduleRequest
from protocol.statistics_request import (
    DATA_TYPES,
    JOINED,
    OF_TWO_COLUMNS,
    POOLED,
    StatisticsRequest,
)
from protocol.training_request import describe

PATH, SCHEDULES = "/runModelTrainTask", "/statistics/schedules"
KEEPS_PARQUET = 4
"""Of the hospitals on one machine; the others keep CSV files."""

ONLY_FOR = {
    "expression": ("custom",),
    "columns": OF_TWO_COLUMNS,
    "group_by": tuple(method for method in POOLED if method not in ("frequency", "crosstab")),
    "quantile": ("quantile",),
    "bins": ("histogram",),
    "threshold": ("is_investor_accredited",),
    "comparison": ("is_investor_accredited",),
}
"""Fields that mean something for these methods alone."""


def example_question(user_id: int | None, names: dict[int, str]) -> dict[str, Any]:
    """A mean over a file of each hospital, for the visitor's own."""
    own = names.get(user_id or 0) or next(iter(names.values()), "")
    places = [(name, "parquet" if user == KEEPS_PARQUET else "csv") for user, name in names.items()]
    return {
        "data_providers": [
            {"name": name, "data_path": f"lab_values.{kind}", "data_type": kind, "key_column": "glucose"}
            for name, kind in places
        ],
        "result_receivers": [own],
        "method": "avg",
        "result_alias": "mean_glucose",
    }


def address_of(body: dict[str, Any]) -> str:
    """Where a question goes that is asked once, or again and again."""
    return SCHEDULES if "schedule" in body else PATH


async def check_question(visit: Visit, body: dict[str, Any]) -> None:
    """The API's own checks, of a question and of a schedule. ConsiliumError says what is wrong."""
    kind = ScheduleRequest if "schedule" in body else StatisticsRequest
    try:
        sent = kind.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    if isinstance(sent, ScheduleRequest):
        _, asked = await schedules.checked(visit.services, visit.caller, sent)
    else:
        asked = await statistics.resolved(visit.services, visit.caller, sent)
    await statistics.seal_places(visit.services, asked)


async def show_statistics_form(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("Ask a question")):
        found = (await visit.data("/hospitals"))["hospitals"]
        names = {row["user_id"]: row["name"] for row in found if row["fingerprint"]}
        draft = Draft(example_question(visit.caller.user_id, names))
        if visit.caller.role == "operator":
            html(note(t("Questions are asked by hospitals: sign in with the token of a hospital's user.")))
        fields = Fields(visit, draft)
        _show_question(fields)
        html(f"<h2>{shown(t('Hospitals and their rows'))}</h2>")
        for name in names.values():
            Provider(fields, name).build()
        _show_schedule(fields)
        show_body(visit, draft, lambda: address_of(draft.body))

        async def send() -> None:
            response = await visit.call("POST", address_of(draft.body), json=draft.body)
            is_schedule = "schedule" in draft.body
            ui.navigate.to("/page/statistics" if is_schedule else f"/page/orders/{number_of(response)}")

        show_buttons(visit, draft, check=lambda body: check_question(visit, body), send=send)


def _show_question(fields: Fields) -> None:
    t, draft = fields.visit.t, fields.draft
    with ui.element("div").classes("fields"):
        fields.choice(("method",), t("Method"), [*POOLED, *JOINED])
        fields.text(("result_alias",), t("Name of the result"))
        only = {
            "group_by": fields.words(("group_by",), t("For each group of (columns)")),
            "columns": fields.words(("columns",), t("The two columns")),
            "quantile": fields.words(("quantile",), t("Quantiles, from 0 to 1"), number_or_text),
            "bins": fields.words(("bins",), t("Edges of the bins"), number_or_text),
            "threshold": fields.text(("threshold",), t("Threshold")),
            "comparison": fields.choice(("comparison",), t("Comparison"), [None, ">=", ">", "<=", "<"]),
            "expression": fields.text(
                ("expression",), t("Expression, such as df1.price * df2.units"), is_wide=True
            ),
        }
        fields.text(("purpose",), t("Purpose (stands in every hospital's ledger)"))

    def follow() -> None:
        for name, field in only.items():
            field.set_visibility(draft.body.get("method") in ONLY_FOR[name])

    follow()
    draft.watch(follow)


def _show_schedule(fields: Fields) -> None:
    t = fields.visit.t
    html(f"<h2>{shown(t('Again and again'))}</h2><p class='soft'>{shown(t(AGAIN))}</p>")
    with ui.element("div").classes("fields"):
        cron = fields.text(("schedule", "cron"), t("Cron, such as 0 6 * * 1-5"))
        zone = fields.text(("schedule", "timezone"), t("Time zone, such as Asia/Shanghai"))

    def follow() -> None:
        timing = fields.draft.body.get("schedule")
        if isinstance(timing, dict) and not {"cron", "interval_seconds"} & timing.keys():
            del fields.draft.body["schedule"]
        zone.set_visibility(bool(cron.value))

    follow()
    fields.draft.watch(follow)


AGAIN = "Leave this empty to ask once. Minute, hour, day of the month, month, day of the week."


class Provider:
    """One hospital of the form: whether it brings rows, where they are, and whether it gets the result."""

    def __init__(self, fields: Fields, name: str) -> None:
        self.fields, self.name = fields, name

    def build(self) -> None:
        t, draft = self.fields.visit.t, self.fields.draft
        with ui.element("div").classes("row"):
            html(f"<b>{shown(self.name)}</b>")
            self.brings = ui.checkbox(t("brings rows"), value=True)
            self.gets = ui.checkbox(t("gets the result"), value=self.is_receiver)
        with ui.element("div").classes("fields") as self.place:
            self.inputs = {
                "data_path": ui.input(t("File, schema.table or SELECT")),
                "data_type": ui.select(list(DATA_TYPES), label=t("Type"), value="csv"),
                "key_column": ui.input(t("Column (joined rows: the person's number)")),
                "value_column": ui.input(t("Column added up")),
            }
        self.follow()
        self.brings.on_value_change(lambda event: self.change(lambda: self.bring(event.value)))
        self.gets.on_value_change(lambda event: self.change(lambda: self.get(event.value)))
        for key, field in self.inputs.items():
            field.on_value_change(lambda event, key=key: self.change(lambda: self.put(key, event.value)))
        draft.watch(self.follow)

    @property
    def providers(self) -> list[dict[str, Any]]:
        found = self.fields.draft.body.get("data_providers")
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def own(self) -> dict[str, Any] | None:
        return next((one for one in self.providers if one.get("name") == self.name), None)

    @property
    def is_receiver(self) -> bool:
        found = self.fields.draft.body.get("result_receivers")
        return isinstance(found, list) and self.name in found

    def follow(self) -> None:
        own = self.own
        self.brings.value, self.gets.value = own is not None, self.is_receiver
        self.place.set_visibility(own is not None)
        for key, field in self.inputs.items():
            value = (own or {}).get(key)
            field.value = value if key != "data_type" or value in DATA_TYPES else "csv"
        self.inputs["value_column"].set_visibility(
            self.fields.draft.body.get("method") == "is_investor_accredited"
        )

    def change(self, how: Any) -> None:
        if not self.fields.draft.is_telling:
            how()
            self.fields.draft.tell()

    def bring(self, is_in: bool) -> None:
        others = [one for one in self.providers if one.get("name") != self.name]
        like = (
            others[0]
            if others
            else {"data_path": "lab_values.csv", "data_type": "csv", "key_column": "glucose"}
        )
        self.fields.draft.body["data_providers"] = [*others, {**like, "name": self.name}] if is_in else others

    def get(self, is_in: bool) -> None:
        others = [name for name in self.fields.draft.body.get("result_receivers", []) if name != self.name]
        self.fields.draft.body["result_receivers"] = [*others, self.name] if is_in else others

    def put(self, key: str, value: Any) -> None:
        own = self.own
        if own is not None and value not in (None, ""):
            own[key] = value
        elif own is not None:
            own.pop(key, None)
