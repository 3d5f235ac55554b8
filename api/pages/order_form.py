"""A form that builds a study, a training or an evaluation, checks it as the API does,
and sends it with the visitor's token.

From the top: what kind of order (`order_kinds`), its columns (`column_rows`), its model,
its hospitals and what they would refuse (`order_parties`). The request's body stands
beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, get_args

from nicegui import background_tasks, ui
from pydantic import ValidationError

from analytics.training import Family, Link, WeightsType
from api.pages.column_rows import ColumnEditor
from api.pages.form import Draft, Fields, box, number_or_text, show_body, show_buttons
from api.pages.frame import frame, heading, html, link, note, shown
from api.pages.order_estimates import STUDIED, EstimateFields, model_param
from api.pages.order_kinds import (
    COLUMNS,
    EVALUATIONS,
    FIRST,
    GROUPS,
    KINDS,
    TRAININGS,
    kind_of,
    with_kind,
)
from api.pages.order_list import members_of
from api.pages.order_parties import HOST_SQL, PartyFields
from api.pages.order_view import number_of
from api.pages.visit import Visit
from api.routes import orders
from api.routes.evaluation import checked_evaluation
from protocol.errors import ConsiliumError
from protocol.evaluation_request import EVALUATED, parse_evaluate_request
from protocol.fields import describe
from protocol.study_rows import Missing
from protocol.sums import KEY_LENGTHS
from protocol.training_request import (
    HIDDEN,
    Aggregation,
    EncryptMethod,
    Optimizer,
    Penalty,
    Scoring,
    TrainingRequest,
)

PATHS = {EVALUATIONS: "/model/evaluate"}
TRAIN_PATH = "/model/train"
# In the request document, and on one machine, hospital 4 holds the guest's table and
# all others the host's.
GUEST = 4
GUEST_SQL = "SELECT * FROM data.breast_homo_guest;"
MOST_MODELS = 100
"""That are offered for an evaluation; the body takes any."""

SETTLE_SECONDS = 0.4
"""Without a change, before what the hospitals would refuse is looked up."""

_TRAINED = tuple(name for name, kind in KINDS.items() if kind.group == TRAININGS)
_PENALISED = ("logistic", "least_squares", *_TRAINED)


def example_order(user_id: int | None, hospitals: list[int]) -> dict[str, Any]:
    """A study over the request document's tables, in the name of the visitor's hospital,
    over the hospitals that exist.

    >>> example_order(4, [2, 3, 4])["party_id"], example_order(None, [7, 9])["user_id"]
    ([2, 3], 7)
    """
    initiator = user_id
    if initiator is None:
        initiator = GUEST if GUEST in hospitals else min(hospitals, default=GUEST)
    others = sorted({*hospitals} - {initiator})
    data_info = {}
    for hospital in sorted([initiator, *others]):
        sql = GUEST_SQL if hospital == GUEST else HOST_SQL
        data_info[str(hospital)] = sql
    parties = {
        "user_id": initiator,
        "party_id": others,
        "data_info": data_info,
    }
    return with_kind(parties, FIRST, COLUMNS)


async def checked_order(visit: Visit, body: dict[str, Any]) -> TrainingRequest:
    """The API's own checks, and the order that would be made. ConsiliumError says what
    is wrong.
    """
    if kind_of(body) == "evaluate":
        evaluation = parse_evaluate_request(body)
        order, _ = await checked_evaluation(visit.services, visit.caller, evaluation)
        return order
    try:
        request = TrainingRequest.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    await orders.checked(visit.services, visit.caller, request)
    return request


def path_of(body: dict[str, Any]) -> str:
    """The API's address for a body."""
    kind = KINDS.get(kind_of(body))
    if kind is None:
        return TRAIN_PATH
    return PATHS.get(kind.group, TRAIN_PATH)


async def show_order_form(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("New order")):
        answer = await visit.data("/hospitals")
        hospitals = answer["hospitals"]
        # One without a fingerprint has never connected.
        connected = [row["user_id"] for row in hospitals if row["fingerprint"]]
        example = example_order(visit.caller.user_id, connected)
        draft = Draft(example)
        if visit.caller.role == "operator":
            sentence = t(
                "Orders are made by hospitals: sign in with the token of a hospital's user."
            )
            html(note(sentence))
        with box("two"):
            with box("part"):
                await OrderForm(visit, draft, hospitals).build()
            with box("part beside"):
                show_body(visit, draft, lambda: path_of(draft.body), is_beside=True)


class OrderForm:
    """The form's parts, each shown for the kinds of orders that it means something for."""

    def __init__(
        self,
        visit: Visit,
        draft: Draft,
        hospitals: list[dict[str, Any]],
    ) -> None:
        self.visit = visit
        self.draft = draft
        self.fields = Fields(visit, draft)
        self.hospitals = hospitals
        self.parties: list[PartyFields] = []
        # What was said of columns before the kind was one without any.
        self.earlier: dict[str, Any] = {}
        self._looking: asyncio.Task[None] | None = None

    async def build(self) -> None:
        t = self.visit.t
        html(heading(1, t("What do you want to know?")))
        self._show_kinds()
        await self._show_models()
        with box("part") as columns:
            html(heading(2, t("Columns")))
            self._show_columns()
        with box("part") as model:
            html(heading(3, t("Model")))
            self._show_model()
        self._only_for(columns, (*STUDIED, *_TRAINED))
        self._only_for(model, (*STUDIED, *_TRAINED))
        html(heading(4, t("Hospitals and their rows")))
        self._show_parties()
        with box("fields") as start_fields:
            self.fields.start()
        self._only_for(start_fields, (*STUDIED, *_TRAINED))
        html(heading(5, t("Send")))
        label = t("Purpose (stands in every hospital's ledger)")
        purpose = self.fields.text(("purpose",), label)
        purpose.style("width:100%")
        reader = self.fields.reader()
        self._only_for(reader, (*STUDIED, "evaluate"))
        self.foreseen = html("").props('aria-live="polite"')
        show_buttons(self.visit, self.draft, check=self._check, send=self._send)
        self.draft.watch(self._look_soon)
        self._look_soon()

    def _only_for(self, part: Any, kinds: Iterable[str]) -> None:
        """Shows a part while the draft is of one of these kinds."""
        kind_names = set(kinds)
        self.fields.shown_while(part, lambda body: kind_of(body) in kind_names)

    # What kind of order

    def _show_kinds(self) -> None:
        t = self.visit.t
        groups = {group: t(words) for group, words in GROUPS.items()}
        first_group = KINDS[FIRST].group
        self.group = ui.radio(groups, value=first_group).props("inline")
        self.kind = ui.radio(self._kinds_of(first_group), value=FIRST)
        self.group.on_value_change(lambda event: self._choose_group(event.value))
        self.kind.on_value_change(lambda event: self._choose(event.value))
        ask = link("/page/statistics/new", t("a question of joint statistics"))
        sentence = shown(t("For tables, tests and survival curves, ask"))
        html(f'<p class="soft">{sentence} {ask}.</p>')
        self.draft.watch(self._follow_kind)

    def _kinds_of(self, group: str) -> dict[str, str]:
        t = self.visit.t
        labels = {}
        for kind_name, kind in KINDS.items():
            if kind.group == group:
                labels[kind_name] = f"{t(kind.name)}: {t(kind.about)}"
        return labels

    def _choose_group(self, group: str | None) -> None:
        if group and not self.draft.is_telling:
            first_kind, *_ = self._kinds_of(group)
            self._choose(first_kind)

    def _choose(self, name: str | None) -> None:
        body = self.draft.body
        if not name or self.draft.is_telling or name == kind_of(body):
            return
        if "attributes" in body:
            self.earlier = body
        self.draft.replace(with_kind(body, name, self.earlier))

    def _follow_kind(self) -> None:
        """A body that was written by hand may be of no kind of ours."""
        kind_name = kind_of(self.draft.body)
        kind = KINDS.get(kind_name)
        if kind is None:
            self.group.value = None
            return
        self.group.value = kind.group
        self.kind.set_options(self._kinds_of(kind.group), value=kind_name)

    # A model that is evaluated

    async def _show_models(self) -> None:
        t = self.visit.t
        answer = await self.visit.data("/orders", limit=MOST_MODELS)
        self.earlier_orders = answer["orders"]
        self.hospitals_of: dict[int, Any] = {}
        models = {}
        for order in self.earlier_orders:
            order_id = order["order_id"]
            members = members_of(order)
            self.hospitals_of[order_id] = members
            is_model = order["kind"] == "train" and order["state"] == "success"
            model_type = str(order["model_type"])
            if is_model and model_type.lower() in EVALUATED:
                n_hospitals = t("{n} hospitals", n=len(members))
                models[order_id] = f"{order_id}: {model_type}, {n_hospitals}"
        with box("part") as model_part:
            html(heading(2, t("Which model")))
            with box("fields"):
                if models:
                    choice = self.fields.choice(("model_id",), t("Model"), list(models))
                    choice.set_options(models, value=choice.value)
                    choice.on_value_change(lambda event: self._take_model(event.value))
                else:
                    html(note(t("There is no model yet that could be evaluated.")))
                label = t("Called positive from this score on (0.5)")
                self.fields.number(("threshold",), label)
                self.fields.text(("group_by",), t("Subgroups by column"))
                label = t("Estimate the slope of the calibration")
                self.fields.flag(("calibration_slope",), label)
        self._only_for(model_part, ["evaluate"])

    def _take_model(self, model_id: int | None) -> None:
        """The hospitals of an evaluation are among those that hold the model."""
        holders = self.hospitals_of.get(model_id or 0)
        if holders is None or self.draft.is_telling:
            return
        body = self.draft.body
        initiator = body.get("user_id")
        sql = self.draft.parts("data_info")
        body["party_id"] = [holder for holder in holders if holder != initiator]
        data_info = {}
        for user_id in sorted({*holders, initiator}):
            data_info[str(user_id)] = sql.get(str(user_id), HOST_SQL)
        body["data_info"] = data_info
        self.draft.tell()

    # Columns

    def _show_columns(self) -> None:
        t = self.visit.t
        fields = self.fields
        with box("fields"):
            fields.text(("unique_id",), t("Column of the patient's number"))
            self._show_outcome()
        html(f"<h3>{shown(t('Columns of the model'))}</h3>")
        ColumnEditor(self.visit, self.draft).build()
        with box("fields"):
            _, *missing = get_args(Missing)
            fields.choice(
                ("missing",),
                t("Missing values"),
                [None, *missing],
                unsaid=t("the order is refused"),
            )
            fields.words(("complete_on",), t("Columns that must have a value"))

    def _show_outcome(self) -> None:
        t = self.visit.t
        fields = self.fields
        label = fields.text(("label_name",), t("Column of the outcome"))
        event = fields.text(("event_name",), t("Column of the event: 1 or 0"))
        entry = fields.text(("entry_name",), t("Column of the entry (cox)"))
        strata = fields.words(("strata",), t("Strata (cox), with commas between"))
        for field in (event, entry, strata):
            self._only_for(field, ["cox"])

        def name_it() -> None:
            caption = t("Column of the outcome")
            if kind_of(self.draft.body) == "cox":
                caption = t("Column of the time (event, or end of observation)")
            label.props(f'label="{caption}"')

        name_it()
        self.draft.watch(name_it)

    # The model

    def _show_model(self) -> None:
        t = self.visit.t
        fields = self.fields
        with box("fields"):
            families = list(get_args(Family))
            family = fields.choice(
                model_param("family"),
                t("Family"),
                families,
            )
            glm_link = fields.choice(
                model_param("link"),
                t("Link"),
                [None, *get_args(Link)],
                unsaid=t("the family's usual one"),
            )
            offset = fields.text(
                model_param("offset"),
                t("Offset: a column of the model, such as ln(time)"),
            )
            weights = fields.text(model_param("weights"), t("Column of weights"))
            of_weights = fields.choice(
                model_param("weights_type"),
                t("Weights are"),
                [None, *get_args(WeightsType)],
                unsaid="prior",
            )
            for field in (family, glm_link, offset, weights, of_weights):
                self._only_for(field, ["glm"])
            label = t("Confidence of the intervals (0.95)")
            confidence = fields.number(model_param("confidence"), label)
            self._only_for(confidence, STUDIED)
            self._show_training()
        EstimateFields(self.fields, self.earlier_orders).build()
        more = ui.expansion(t("More: penalty, rounds, protection, scores"))
        with more, box("fields"):
            self._show_more()

    def _show_training(self) -> None:
        t = self.visit.t
        fields = self.fields
        optimizers = list(get_args(Optimizer))
        of_training = [
            fields.flag(model_param("standardize"), t("Standardise the columns")),
            fields.choice(
                model_param("optimizer"),
                t("Optimizer"),
                optimizers,
            ),
            fields.number(model_param("max_iter"), t("Rounds at the most")),
            fields.number(model_param("learning_rate"), t("Learning rate")),
            fields.number(
                ("validation_fraction",),
                t("Share of the rows that only tests"),
            ),
        ]
        for field in of_training:
            self._only_for(field, _TRAINED)
        label = t("Sizes of the two hidden layers")
        hidden = fields.words(model_param("hidden"), label, number_or_text)
        self._only_for(hidden, HIDDEN)
        label = t("Height, width, channels")
        shape = fields.words(model_param("shape"), label, number_or_text)
        self._only_for(shape, ["cnn"])

    def _show_more(self) -> None:
        t = self.visit.t
        fields = self.fields
        penalties = [*get_args(Penalty), "None"]
        penalty = fields.choice(
            model_param("penalty"),
            t("Penalty"),
            penalties,
        )
        alpha = fields.number(model_param("alpha"), t("Weight of the penalty"))
        for field in (penalty, alpha):
            self._only_for(field, _PENALISED)
        fields.number(model_param("eps"), t("Ends when the loss changes by less than"))
        of_training = [
            fields.number(model_param("decay"), t("Decay of the rate")),
            fields.number(
                model_param("batch_size"), t("Rows of a mini-batch (-1: all)")
            ),
            fields.flag(model_param("cv_param", "need_cv"), t("Cross-validation")),
            fields.choice(
                ("scoring",),
                t("Scoring"),
                [None, *get_args(Scoring)],
                unsaid=t("the most that all policies allow"),
            ),
            fields.choice(
                ("aggregation",),
                t("Aggregation"),
                [None, *get_args(Aggregation)],
                unsaid="mean",
            ),
        ]
        for field in of_training:
            self._only_for(field, _TRAINED)
        rounds = fields.number(model_param("max_iter"), t("Rounds at the most (25)"))
        self._only_for(rounds, STUDIED)
        methods = list(get_args(EncryptMethod))
        fields.choice(
            model_param("encrypt_param", "method"),
            t("Protection"),
            methods,
        )
        fields.choice(
            model_param("encrypt_param", "key_length"),
            t("Key length (Paillier)"),
            [None, *KEY_LENGTHS],
            unsaid="2048",
        )

    # Hospitals, and what they would refuse

    def _show_parties(self) -> None:
        hospital_names = {}
        for hospital in self.hospitals:
            user_id = hospital["user_id"]
            hospital_names[user_id] = hospital["name"]
        for hospital in self.hospitals:
            party = PartyFields(self.fields, hospital, hospital_names)
            party.build()
            self.parties.append(party)

    def _look_soon(self) -> None:
        """Looks what would be refused, once nothing has changed for a moment."""
        if self._looking is not None:
            self._looking.cancel()
        client = ui.context.client

        async def look() -> None:
            await asyncio.sleep(SETTLE_SECONDS)
            with client:
                await self._look()

        self._looking = background_tasks.create(look(), name="foresee refusals")

    async def _look(self) -> None:
        t = self.visit.t
        order: TrainingRequest | None = None
        try:
            order = await checked_order(self.visit, self.draft.body)
        except ConsiliumError as error:
            sentence = self.visit.error(error)
            said = t("The coordinator would refuse this: {sentence}", sentence=sentence)
            self.foreseen.set_content(note(said, "bad"))
        refusing = []
        for party in self.parties:
            if party.foresee(order):
                refusing.append(party.name)
        if order is None:
            return
        if refusing:
            refusing_names = ", ".join(refusing)
            said = t("{names} would refuse this.", names=refusing_names)
            self.foreseen.set_content(note(said, "bad"))
        else:
            self.foreseen.set_content(note(t(NOTHING_FORESEEN), "good"))

    async def _check(self, body: dict[str, Any]) -> None:
        await checked_order(self.visit, body)

    async def _send(self) -> None:
        body = self.draft.body
        response = await self.visit.call("POST", path_of(body), json=body)
        order_id = number_of(response)
        ui.navigate.to(f"/page/orders/{order_id}")


NOTHING_FORESEEN = (
    "Nothing that the hospitals have told of their policies is against it. Tables, columns and numbers of rows are "
    "checked at each hospital."
)
