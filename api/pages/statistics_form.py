"""A form that asks a question of joint statistics, once or on a schedule, checked as
the API does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, get_args

from nicegui import ui
from pydantic import ValidationError

from analytics.statistics import EventWeights
from api.pages.column_rows import read_category, write_category
from api.pages.form import Draft, Fields, box, number_or_text, show_body, show_buttons
from api.pages.frame import frame, heading, html, note, shown
from api.pages.order_view import number_of
from api.pages.question_words import method_name
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
    "weights": ("logrank",),
    "categorical": POOLED,
    "quantile": ("quantile",),
    "quartiles": ("describe",),
    "bins": ("histogram", "kaplan_meier"),
    "histograms": ("describe",),
    "threshold": ("is_investor_accredited",),
    "comparison": ("is_investor_accredited",),
}


def example_question(
    user_id: int | None,
    names: dict[int, str],
) -> dict[str, Any]:
    """A mean over a file of each hospital, for the visitor's own."""
    own_name = names.get(user_id or 0)
    if not own_name:
        own_name = next(iter(names.values()), "")
    providers = []
    for hospital_id, hospital_name in names.items():
        file_type = "parquet" if hospital_id == KEEPS_PARQUET else "csv"
        provider = {
            "name": hospital_name,
            "data_path": f"lab_values.{file_type}",
            "data_type": file_type,
            "key_column": "glucose",
        }
        providers.append(provider)
    return {
        "data_providers": providers,
        "result_receivers": [own_name],
        "method": "avg",
        "result_alias": "mean_glucose",
    }


def address_of(body: dict[str, Any]) -> str:
    """The API's address for a question that is sent once, or again and again."""
    return SCHEDULES if "schedule" in body else PATH


async def check_question(
    visit: Visit,
    body: dict[str, Any],
) -> None:
    """The API's own checks, of a question and of a schedule.

    ConsiliumError says what is wrong.
    """
    request_class = ScheduleRequest if "schedule" in body else StatisticsRequest
    try:
        sent_request = request_class.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    if isinstance(sent_request, ScheduleRequest):
        _, question = await schedules.checked(
            visit.services,
            visit.caller,
            sent_request,
        )
    else:
        question = await statistics.resolved(
            visit.services,
            visit.caller,
            sent_request,
        )
    await statistics.seal_places(visit.services, question)


async def show_statistics_form(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("Ask a question")):
        answer = await visit.data("/hospitals")
        # One without a fingerprint has never connected.
        hospital_names = {}
        for hospital in answer["hospitals"]:
            if hospital["fingerprint"]:
                user_id = hospital["user_id"]
                hospital_names[user_id] = hospital["name"]
        example = example_question(visit.caller.user_id, hospital_names)
        draft = Draft(example)
        if visit.caller.role == "operator":
            sentence = t(
                "Questions are asked by hospitals: sign in with the token of a hospital's user."
            )
            html(note(sentence))
        fields = Fields(visit, draft)
        with box("two"):
            with box("part"):
                QuestionForm(fields, hospital_names).build()
            with box("part beside"):
                show_body(
                    visit,
                    draft,
                    lambda: address_of(draft.body),
                    is_beside=True,
                )


class QuestionForm:
    """The form's parts, each field shown for the methods that it means something for."""

    def __init__(
        self,
        fields: Fields,
        names: dict[int, str],
    ) -> None:
        self.fields = fields
        self.visit = fields.visit
        self.names = names  # of the hospitals that have connected

    def build(self) -> None:
        t = self.visit.t
        html(heading(1, t("What do you want to know?")))
        with box("fields"):
            self._show_question()
        title = t("More about the rows: missing values, derived columns, histograms")
        more = ui.expansion(title)
        with (
            more.classes("wide"),
            box("fields"),
        ):
            self._show_rows()
        html(heading(2, t("Hospitals and their rows")))
        for hospital_name in self.names.values():
            ProviderFields(self.fields, hospital_name).build()
        with box("fields"):
            self.fields.start()
        html(heading(3, t("Once, or again and again")))
        _show_schedule(self.fields)
        html(heading(4, t("Send")))
        label = t("Purpose (stands in every hospital's ledger)")
        purpose = self.fields.text(("purpose",), label)
        purpose.style("width:100%")
        self.fields.reader()
        show_buttons(
            self.visit,
            self.fields.draft,
            check=self._check,
            send=self._send,
        )

    async def _check(self, body: dict[str, Any]) -> None:
        await check_question(self.visit, body)

    async def _send(self) -> None:
        body = self.fields.draft.body
        address = address_of(body)
        response = await self.visit.call(
            "POST",
            address,
            json=body,
        )
        if "schedule" in body:
            ui.navigate.to("/page/statistics")
        else:
            order_id = number_of(response)
            ui.navigate.to(f"/page/orders/{order_id}")

    def _only_for(self, field: Any, name: str) -> None:
        methods = ONLY_FOR[name]

        def is_wanted(body: Mapping[str, Any]) -> bool:
            return body.get("method") in methods

        self.fields.shown_while(field, is_wanted)

    def _show_question(self) -> None:
        t = self.visit.t
        fields = self.fields
        methods = {}
        for name in (*POOLED, *JOINED):
            methods[name] = method_name(self.visit, name)
        fields.choice(("method",), t("Method"), methods)
        fields.text(("result_alias",), t("Name of the result"))
        only = {
            "columns": fields.words(
                ("columns",),
                t("The columns, with commas between (up to 50)"),
            ),
            "event_name": fields.text(
                ("event_name",),
                t("Column of the event (1 or 0)"),
            ),
            "group_by": fields.words(
                ("group_by",),
                t("For each group of (columns)"),
            ),
            "weights": fields.choice(
                ("weights",),
                t("Weights of event times"),
                [None, *get_args(EventWeights)],
                unsaid="logrank",
            ),
            "quantile": fields.words(
                ("quantile",),
                t("Quantiles, from 0 to 1"),
                number_or_text,
            ),
            "quartiles": fields.flag(
                ("quartiles",),
                t("Median and quartiles of numbers, too"),
            ),
            "bins": fields.words(
                ("bins",),
                t("Edges of the bins, or times of the curve"),
                number_or_text,
            ),
            "threshold": fields.text(("threshold",), t("Threshold")),
            "comparison": fields.choice(
                ("comparison",),
                t("Comparison"),
                [None, ">=", ">", "<=", "<"],
                unsaid=">=",
            ),
            "expression": fields.text(
                ("expression",),
                t("Expression, such as df1.price * df2.units"),
                is_wide=True,
            ),
        }
        for name, field in only.items():
            self._only_for(field, name)

    def _show_rows(self) -> None:
        t = self.visit.t
        fields = self.fields
        fields.choice(
            ("missing",),
            t("Missing values"),
            [None, *get_args(Missing)],
            unsaid=t("as usual for the method"),
        )
        fields.words(("complete_on",), t("Columns that must have a value"))
        fields.named(
            ("derive",),
            t("Derived columns: a line each, name = expression"),
            read=str,
            write=str,
        )
        categorical = fields.named(
            ("categorical",),
            t("Columns whose rare values are one level: a line each"),
            read=read_category,
            write=write_category,
        )
        histograms = fields.named(
            ("histograms",),
            t("Histograms: a line each, such as age = 50, 60, 70"),
            read=read_edges,
            write=write_edges,
        )
        self._only_for(categorical, "categorical")
        self._only_for(histograms, "histograms")


def read_edges(text: str) -> list[Any]:
    """The edges of one column's histogram.

    >>> read_edges("50, 62.5,70"), read_edges("")
    ([50, 62.5, 70], [])
    """
    edges = []
    for piece in text.split(","):
        word = piece.strip()
        if word:
            edges.append(number_or_text(word))
    return edges


def write_edges(edges: Any) -> str:
    if not isinstance(edges, list):
        return ""
    return ", ".join(map(str, edges))


def _show_schedule(fields: Fields) -> None:
    t = fields.visit.t
    sentence = shown(t(AGAIN))
    html(f"<p class='soft'>{sentence}</p>")
    with box("fields"):
        cron = fields.text(
            ("schedule", "cron"),
            t("Cron, such as 0 6 * * 1-5"),
        )
        zone = fields.text(
            ("schedule", "timezone"),
            t("Time zone, such as Asia/Shanghai"),
        )

    def follow() -> None:
        body = fields.draft.body
        timing = body.get("schedule")
        # Without times it is a question that is sent once, whatever its time zone.
        if (
            isinstance(timing, dict)
            and "cron" not in timing
            and "interval_seconds" not in timing
        ):
            del body["schedule"]
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
        t = self.fields.visit.t
        with box("party"):
            with box("row"):
                name = shown(self.name)
                html(f"<b>{name}</b>")
                self.brings = ui.checkbox(t("brings rows"), value=True)
                self.gets = ui.checkbox(t("gets the result"), value=self.is_receiver)
            with box("fields") as self.place:
                self.inputs = {
                    "data_path": ui.input(t("File, schema.table or SELECT")),
                    "data_type": ui.select(
                        list(DATA_TYPES),
                        label=t("Type"),
                        value="csv",
                    ),
                    "key_column": ui.input(t("Column that is computed")),
                    "value_column": ui.input(t("Column added up")),
                }
        self.follow()
        self._on_change(self.brings, self.bring)
        self._on_change(self.gets, self.get)
        for field_name, field in self.inputs.items():
            self._on_change(field, functools.partial(self.put, field_name))
        self.fields.draft.watch(self.follow)

    def _on_change(
        self,
        field: Any,
        take: Callable[[Any], None],
    ) -> None:
        def changed(event: Any) -> None:
            self.change(lambda: take(event.value))

        field.on_value_change(changed)

    @property
    def providers(self) -> list[dict[str, Any]]:
        """The body's providers, as far as they have the form of some: people may write
        anything there.
        """
        providers = []
        for provider in self.fields.draft.members("data_providers"):
            if isinstance(provider, dict):
                providers.append(provider)
        return providers

    @property
    def own(self) -> dict[str, Any] | None:
        """This hospital's part of the body; None where it brings no rows."""
        for provider in self.providers:
            if provider.get("name") == self.name:
                return provider
        return None

    @property
    def is_receiver(self) -> bool:
        return self.name in self.fields.draft.members("result_receivers")

    def follow(self) -> None:
        """Shows the draft."""
        own = self.own
        self.brings.value = own is not None
        self.gets.value = self.is_receiver
        self.place.set_visibility(own is not None)
        own_values = own or {}
        for field_name, field in self.inputs.items():
            field_value = own_values.get(field_name)
            # A choice cannot show a type that it has not.
            if field_name == "data_type" and field_value not in DATA_TYPES:
                field_value = "csv"
            field.value = field_value
        t = self.fields.visit.t
        method = self.fields.draft.body.get("method")
        caption = t("Column that is computed")
        if method in JOINED:
            caption = t("Column of the person's number")
        self.inputs["key_column"].props(f'label="{caption}"')
        has_values = method == "is_investor_accredited"
        self.inputs["value_column"].set_visibility(has_values)

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
        providers = []
        for provider in self.providers:
            if provider.get("name") != self.name:
                providers.append(provider)
        if is_in:
            template = providers[0] if providers else EXAMPLE_PLACE
            own = {**template, "name": self.name}
            providers.append(own)
        self.fields.draft.body["data_providers"] = providers

    def get(self, is_in: bool) -> None:
        """Whether the hospital gets the result."""
        draft = self.fields.draft
        receivers = []
        for receiver in draft.members("result_receivers"):
            if receiver != self.name:
                receivers.append(receiver)
        if is_in:
            receivers.append(self.name)
        draft.body["result_receivers"] = receivers

    def put(self, key: str, value: Any) -> None:
        """Sets a part of the hospital's own; None and empty texts are left out."""
        own = self.own
        if own is None:
            return
        if value in (None, ""):
            own.pop(key, None)
        else:
            own[key] = value
