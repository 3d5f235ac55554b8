"""A form that builds a training order, checks it as the API does, and sends it with the
visitor's token.
"""

from __future__ import annotations

from typing import Any, get_args

from nicegui import ui
from pydantic import ValidationError

from analytics.training import Dispersion, Family, Link
from api.pages.form import (
    Draft,
    Fields,
    number_or_text,
    show_body,
    show_buttons,
)
from api.pages.frame import frame, html, note, shown
from api.pages.order_view import number_of
from api.pages.visit import Visit
from api.routes import orders
from protocol.fields import describe
from protocol.study import STUDY
from protocol.study_rows import Missing
from protocol.sums import KEY_LENGTHS
from protocol.training_request import (
    MODEL_NAMES,
    Aggregation,
    EncryptMethod,
    Optimizer,
    Penalty,
    Scoring,
    TrainingRequest,
)

PATH = "/model/train"
# In the request document, and on one machine, hospital 4 holds the guest's table and
# all others the host's.
GUEST = 4

EXAMPLE: dict[str, Any] = {
    "model_type": "lr",
    "model_params": {
        **STUDY,
        # As the field offers it; null is the same.
        "penalty": "None",
        "batch_size": -1,
        "encrypt_param": {"method": "Paillier"},
        "cv_param": {"need_cv": False},
    },
    "unique_id": "id",
    "attributes": ["x1", "x2", "x3", "x4"],
    "label_name": "y",
}


def example_order(user_id: int | None, hospitals: list[int]) -> dict[str, Any]:
    """An order over the request document's tables with what a new study should set, in
    the name of the visitor's hospital, over the hospitals that exist.

    >>> example_order(4, [2, 3, 4])["party_id"], example_order(None, [7, 9])["user_id"]
    ([2, 3], 7)
    """
    own = user_id
    if own is None:
        own = GUEST if GUEST in hospitals else min(hospitals, default=GUEST)
    others = sorted({*hospitals} - {own})
    data_info = {}
    for user in sorted([own, *others]):
        table = "guest" if user == GUEST else "host"
        data_info[str(user)] = f"SELECT * FROM data.breast_homo_{table};"  # noqa: S608
    return {"user_id": own, "party_id": others, "data_info": data_info, **EXAMPLE}


async def check_order(visit: Visit, body: dict[str, Any]) -> None:
    """The API's own checks. ConsiliumError says what is wrong."""
    try:
        request = TrainingRequest.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    await orders.checked(visit.services, visit.caller, request)


async def show_order_form(visit: Visit) -> None:
    t = visit.t
    with frame(visit, t("New order")):
        found = (await visit.data("/hospitals"))["hospitals"]
        names = {row["user_id"]: row["name"] for row in found}
        # One without a fingerprint has never connected.
        connected = [row["user_id"] for row in found if row["fingerprint"]]
        draft = Draft(example_order(visit.caller.user_id, connected))
        if visit.caller.role == "operator":
            html(
                note(
                    t(
                        "Orders are made by hospitals: sign in with the token of a hospital's user."
                    )
                )
            )
        _show_fields(Fields(visit, draft), names)
        show_body(visit, draft, lambda: PATH)

        async def send() -> None:
            response = await visit.call("POST", PATH, json=draft.body)
            ui.navigate.to(f"/page/orders/{number_of(response)}")

        show_buttons(
            visit, draft, check=lambda body: check_order(visit, body), send=send
        )


def read_category(reference: str) -> dict[str, Any]:
    """What the body has for a line's reference; without one it is the most frequent
    level.

    >>> read_category("4"), read_category("typical"), read_category("")
    ({'reference': 4}, {'reference': 'typical'}, {})
    """
    return {"reference": number_or_text(reference)} if reference else {}


def write_category(category: Any) -> str:
    reference = category.get("reference") if isinstance(category, dict) else None
    return "" if reference is None else str(reference)


def _show_fields(fields: Fields, names: dict[int, str]) -> None:
    t = fields.visit.t
    with ui.element("div").classes("fields"):
        fields.choice(("model_type",), t("Model"), list(MODEL_NAMES))
        fields.flag(("model_params", "standardize"), t("Standardise the columns"))
        fields.number(("model_params", "max_iter"), t("Rounds at the most"))
        fields.number(
            ("model_params", "eps"), t("Ends when the loss changes by less than")
        )
        fields.number(("model_params", "learning_rate"), t("Learning rate"))
        fields.number(("model_params", "decay"), t("Decay of the rate"))
        fields.number(
            ("model_params", "batch_size"), t("Rows of a mini-batch (-1: all)")
        )
        fields.choice(
            ("model_params", "penalty"), t("Penalty"), [*get_args(Penalty), "None"]
        )
        fields.number(("model_params", "alpha"), t("Weight of the penalty"))
        fields.choice(
            ("model_params", "optimizer"), t("Optimizer"), list(get_args(Optimizer))
        )
        for name, label, words in (
            ("family", t("Family (glm)"), get_args(Family)),
            ("link", t("Link (glm)"), get_args(Link)),
            ("dispersion", t("Dispersion (glm)"), get_args(Dispersion)),
        ):
            fields.choice(("model_params", name), label, [None, *words])
        encrypt = ("model_params", "encrypt_param")
        fields.choice(
            (*encrypt, "method"), t("Protection"), list(get_args(EncryptMethod))
        )
        fields.choice(
            (*encrypt, "key_length"), t("Key length (Paillier)"), [None, *KEY_LENGTHS]
        )
        fields.choice(("scoring",), t("Scoring"), [None, *get_args(Scoring)])
        fields.choice(
            ("aggregation",), t("Aggregation"), [None, *get_args(Aggregation)]
        )
        fields.text(("unique_id",), t("Column of the patient's number"))
        fields.words(("attributes",), t("Feature columns, with commas between"))
        fields.text(("label_name",), t("Column of the label"))
        fields.text(("event_name",), t("Column of the event (cox)"))
        fields.words(("complete_on",), t("Leave out rows without a value in (columns)"))
        fields.choice(("missing",), t("Missing values"), [None, *get_args(Missing)])
        fields.named(
            ("categorical",),
            t("Categories: a line each, column = reference level"),
            read=read_category,
            write=write_category,
        )
        fields.named(
            ("derive",),
            t("Derived columns: a line each, name = expression"),
            read=str,
            write=str,
        )
        fields.text(("purpose",), t("Purpose (stands in every hospital's ledger)"))
    html(f"<h2>{shown(t('Hospitals and their rows'))}</h2>")
    with ui.element("div").classes("fields"):
        for user, name in names.items():
            PartyFields(fields, user, name).build()


class PartyFields:
    """One hospital of the form: whether it takes part, and its SQL."""

    def __init__(self, fields: Fields, user: int, name: str) -> None:
        self.fields = fields
        self.user = user
        self.name = name

    def build(self) -> None:
        t, draft = self.fields.visit.t, self.fields.draft
        with ui.element("div").classes("wide"):
            self.box = ui.checkbox(f"{self.name} ({self.user})", value=self.is_in)
            self.box.on_value_change(lambda event: self.set(event.value))
            label = t("SELECT for {name}", name=self.name)
            self.sql = self.fields.text(
                ("data_info", str(self.user)), label, is_wide=True
            )
            self.sql.style("width:100%")
            self.follow()
            draft.watch(self.follow)

    @property
    def is_in(self) -> bool:
        return self.is_initiator or self.is_other_party

    @property
    def is_initiator(self) -> bool:
        return bool(self.user == self.fields.draft.body.get("user_id"))

    @property
    def is_other_party(self) -> bool:
        others = self.fields.draft.body.get("party_id")
        return isinstance(others, list) and self.user in others

    def follow(self) -> None:
        """Shows the draft. The initiator takes part in any case."""
        self.box.value = self.is_in
        self.sql.set_visibility(self.is_in)
        self.box.set_enabled(not self.is_initiator)

    def set(self, is_in: bool) -> None:
        draft = self.fields.draft
        # What the draft has just shown is no change of the visitor's.
        if draft.is_telling:
            return
        others = [user for user in draft.body.get("party_id", []) if user != self.user]
        if is_in:
            others = sorted([*others, self.user])
        draft.body["party_id"] = others
        sql = draft.body.setdefault("data_info", {})
        if is_in:
            sql.setdefault(str(self.user), "SELECT * FROM data.breast_homo_host;")
        else:
            sql.pop(str(self.user), None)
        draft.tell()
