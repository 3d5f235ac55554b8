"""A form that asks a question of joint statistics, once or on a schedule, checked as
the API does.
"""

from __future__ import annotations

from typing import Any, get_args

from nicegui import ui
from pydantic import ValidationError

from api.pages.form import Draft, Fields, number_or_text, show_body, show_buttons
from api.pages.frame import frame, html, note, shown
from api.pages.order_form import read_category, write_category
from api.pages.order_view import number_of
from api.pages.visit import Visit
from api.routes import schedules, statistics
from api.routes.schedules import ScheduleRequest
from protocol.fields import describe
from protocol.statistics_request import (
    BY_GROUPS,
    DATA_TYPES,
    JOINED,
    OF_COLUMNS,
    POOLED,
    StatisticsRequest,
)
from protocol.study_rows import Missing

PATH = "/runModelTrainTask"
SCHEDULES = "/statistics/schedules"
# Of the hospitals on one machine; the others keep CSV files.
KEEPS_PARQUET = 4
EXAMPLE_PLACE = {
    "data_path": "lab_values.csv",
    "data_type": "csv",
    "key_column": "glucose",
}
# Fields that mean something for these methods alone.
ONLY_FOR = {
    "expression": ("custom",),
    "columns": OF_COLUMNS,
    "group_by": BY_GROUPS,
    "event_name": ("logrank", "kaplan_meier"),
    "categorical": POOLED,
    "quantile": ("quantile",),
    "bins": ("histogram", "kaplan_meier"),
    "threshold": ("is_investor_accredited",),
    "comparison": ("is_investor_accredited",),
}


def example_question(user_id: int | None, names: dict[int, str]) -> dict[str, Any]:
    """A mean over a file of each hospital, for the visitor's own."""
    own = names.get(user_id or 0)
    if not own:
        own = next(iter(names.values()), "")
    providers = []
    for user, name in names.items():
        kind = "parquet" if user == KEEPS_PARQUET else "csv"
        place = {"data_path": f"lab_values.{kind}", "data_type": kind}
        providers.append({"name": name, **place, "key_column": "glucose"})
    return {
        "data_providers": providers,
        "result_receivers": [own],
        "method": "avg",
        "result_alias": "mean_glucose",
    }


def address_of(body: dict[str, Any]) -> str:
    """The API's address for a question that is sent once, or again and again."""
    return SCHEDULES if "schedule" in body else PATH


async def check_question(visit: Visit, body: dict[str, Any]) -> None:
    """The API's own checks, of a question and of a schedule.

    ConsiliumError says what is wrong.
    """
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
        found = await visit.data("/hospitals")
        # One without a fingerprint has never connected.
        names = {
            row["user_id"]: row["name"]
            for row in found["hospitals"]
            if row["fingerprint"]
        }
        draft = Draft(example_question(visit.caller.user_id, names))
        if visit.caller.role == "operator":
            html(
                note(
                    t(
                        "Questions are asked by hospitals: sign in with the token of a hospital's user."
                    )
                )
            )
        fields = Fields(visit, draft)
        _show_question(fields)
        html(f"<h2>{shown(t('Hospitals and their rows'))}</h2>")
        for name in names.values():
            ProviderFields(fields, name).build()
        _show_schedule(fields)
        show_body(visit, draft, lambda: address_of(draft.body))

        async def send() -> None:
            response = await visit.call("POST", address_of(draft.body), json=draft.body)
            if "schedule" in draft.body:
                ui.navigate.to("/page/statistics")
            else:
                ui.navigate.to(f"/page/orders/{number_of(response)}")

        show_buttons(
            visit, draft, check=lambda body: check_question(visit, body), send=send
        )


def _show_question(fields: Fields) -> None:
    t, draft = fields.visit.t, fields.draft
    with ui.element("div").classes("fields"):
        fields.choice(("method",), t("Method"), [*POOLED, *JOINED])
        fields.text(("result_alias",), t("Name of the result"))
        fields.words(("complete_on",), t("Leave out rows without a value in (columns)"))
        fields.choice(("missing",), t("Missing values"), [None, *get_args(Missing)])
        fields.named(
            ("derive",),
            t("Derived columns: a line each, name = expression"),
            read=str,
            write=str,
        )
        only = {
            "group_by": fields.words(("group_by",), t("For each group of (columns)")),
            "event_name": fields.text(
                ("event_name",), t("Column of the event (1 or 0)")
            ),
            "categorical": fields.named(
                ("categorical",),
                t("Columns whose rare values are one level: a line each"),
                read=read_category,
                write=write_category,
            ),
            "columns": fields.words(
                ("columns",), t("The columns: two, or up to 50 of a matrix")
            ),
            "quantile": fields.words(
                ("quantile",), t("Quantiles, from 0 to 1"), number_or_text
            ),
            "bins": fields.words(("bins",), t("Edges of the bins"), number_or_text),
            "threshold": fields.text(("threshold",), t("Threshold")),
            "comparison": fields.choice(
                ("comparison",), t("Comparison"), [None, ">=", ">", "<=", "<"]
            ),
            "expression": fields.text(
                ("expression",),
                t("Expression, such as df1.price * df2.units"),
                is_wide=True,
            ),
        }
        fields.text(("purpose",), t("Purpose (stands in every hospital's ledger)"))

    def follow() -> None:
        method = draft.body.get("method")
        for name, field in only.items():
            field.set_visibility(method in ONLY_FOR[name])

    follow()
    draft.watch(follow)


def _show_schedule(fields: Fields) -> None:
    t = fields.visit.t
    html(f"<h2>{shown(t('Again and again'))}</h2><p class='soft'>{shown(t(AGAIN))}</p>")
    with ui.element("div").classes("fields"):
        cron = fields.text(("schedule", "cron"), t("Cron, such as 0 6 * * 1-5"))
        zone = fields.text(
            ("schedule", "timezone"), t("Time zone, such as Asia/Shanghai")
        )

    def follow() -> None:
        timing = fields.draft.body.get("schedule")
        # Without times it is a question that is sent once, whatever its time zone.
        if (
            isinstance(timing, dict)
            and "cron" not in timing
            and "interval_seconds" not in timing
        ):
            del fields.draft.body["schedule"]
        zone.set_visibility(bool(cron.value))

    follow()
    fields.draft.watch(follow)


AGAIN = "Leave this empty to ask once. Minute, hour, day of the month, month, day of the week."


class ProviderFields:
    """One hospital of the form: whether it brings rows, where they are, and whether it
    gets the result.
    """

    def __init__(self, fields: Fields, name: str) -> None:
        self.fields = fields
        self.name = name

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
        self.brings.on_value_change(
            lambda event: self.change(lambda: self.bring(event.value))
        )
        self.gets.on_value_change(
            lambda event: self.change(lambda: self.get(event.value))
        )
        for key, field in self.inputs.items():
            field.on_value_change(
                lambda event, key=key: self.change(lambda: self.put(key, event.value))
            )
        draft.watch(self.follow)

    @property
    def providers(self) -> list[dict[str, Any]]:
        """The body's providers, as far as they have the form of some: people may write
        anything there.
        """
        found = self.fields.draft.body.get("data_providers")
        if not isinstance(found, list):
            return []
        return [provider for provider in found if isinstance(provider, dict)]

    @property
    def own(self) -> dict[str, Any] | None:
        """This hospital's part of the body; None where it brings no rows."""
        for provider in self.providers:
            if provider.get("name") == self.name:
                return provider
        return None

    @property
    def is_receiver(self) -> bool:
        found = self.fields.draft.body.get("result_receivers")
        return isinstance(found, list) and self.name in found

    def follow(self) -> None:
        """Shows the draft."""
        own = self.own
        self.brings.value = own is not None
        self.gets.value = self.is_receiver
        self.place.set_visibility(own is not None)
        for key, field in self.inputs.items():
            value = (own or {}).get(key)
            # A choice cannot show a type that it has not.
            if key == "data_type" and value not in DATA_TYPES:
                value = "csv"
            field.value = value
        method = self.fields.draft.body.get("method")
        self.inputs["value_column"].set_visibility(method == "is_investor_accredited")

    def change(self, how: Any) -> None:
        """Changes the draft and shows that everywhere, unless the change is what the
        draft has just shown.
        """
        if not self.fields.draft.is_telling:
            how()
            self.fields.draft.tell()

    def bring(self, is_in: bool) -> None:
        """Whether the hospital brings rows; the place of another's is where its own are
        likely to be.
        """
        providers = [
            provider for provider in self.providers if provider.get("name") != self.name
        ]
        if is_in:
            like = providers[0] if providers else EXAMPLE_PLACE
            providers.append({**like, "name": self.name})
        self.fields.draft.body["data_providers"] = providers

    def get(self, is_in: bool) -> None:
        """Whether the hospital gets the result."""
        body = self.fields.draft.body
        receivers = [
            name for name in body.get("result_receivers", []) if name != self.name
        ]
        if is_in:
            receivers.append(self.name)
        body["result_receivers"] = receivers

    def put(self, key: str, value: Any) -> None:
        """Sets a part of the hospital's own; None and empty texts are left out."""
        own = self.own
        if own is None:
            return
        if value in (None, ""):
            own.pop(key, None)
        else:
            own[key] = value
