"""The columns of a study as lines of a form: a name, what kind of column it is, and a
reference level or an expression.

Three fields of a request's body, `attributes`, `categorical` and `derive`, are one list
to a person. `rows_of` and `fields_of` go from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from api.pages.form import Draft, box, number_or_text
from api.pages.visit import Visit

NUMBER = "number"
CATEGORY = "category"
DERIVED = "derived"
STEP = "step"
KINDS = {
    NUMBER: "a number",
    CATEGORY: "categories",
    DERIVED: "computed from other columns",
    STEP: "a step: computed, not in the model",
}


@dataclass
class ColumnRow:
    """One line."""

    name: str
    kind: str = NUMBER
    more: str = ""  # the reference level, or the expression


def rows_of(body: Mapping[str, Any]) -> list[ColumnRow]:
    """The lines of a body that may have been written by hand.

    >>> rows_of({"attributes": ["sex", "old"], "categorical": {"sex": {"reference": 1}},
    ...          "derive": {"old": "age >= 65"}})[1]
    ColumnRow(name='old', kind='derived', more='age >= 65')
    """
    categorical = _object(body.get("categorical"))
    derived = _object(body.get("derive"))
    attributes = body.get("attributes")
    attribute_names = []
    if isinstance(attributes, list):
        attribute_names = [str(attribute) for attribute in attributes]
    rows = []
    # A column that is written twice is one line, at its first place.
    column_names = dict.fromkeys([*attribute_names, *categorical])
    for column_name in column_names:
        row = ColumnRow(column_name)
        if column_name in derived:
            row.kind = DERIVED
            row.more = str(derived[column_name])
        elif column_name in categorical:
            row.kind = CATEGORY
            row.more = write_category(categorical[column_name])
        rows.append(row)
    for column_name, expression in derived.items():
        if column_name not in attribute_names:
            row = ColumnRow(column_name, STEP, str(expression))
            rows.append(row)
    return rows


def fields_of(rows: Sequence[ColumnRow]) -> dict[str, Any]:
    """The fields of the body that lines stand for; lines without a name are none yet.

    >>> fields_of([ColumnRow("age"), ColumnRow("sex", "category"), ColumnRow("")])
    {'attributes': ['age', 'sex'], 'categorical': {'sex': {}}, 'derive': {}}
    """
    attributes = []
    categorical = {}
    derived = {}
    for row in rows:
        column_name = row.name.strip()
        more = row.more.strip()
        if not column_name:
            continue
        if row.kind != STEP:
            attributes.append(column_name)
        if row.kind == CATEGORY:
            categorical[column_name] = read_category(more)
        elif row.kind in (DERIVED, STEP):
            derived[column_name] = more
    return {
        "attributes": attributes,
        "categorical": categorical,
        "derive": derived,
    }


def read_category(reference: str) -> dict[str, Any]:
    """What the body has for a line's reference; without one it is the most frequent
    level.

    >>> read_category("4"), read_category("typical"), read_category("")
    ({'reference': 4}, {'reference': 'typical'}, {})
    """
    if not reference:
        return {}
    return {"reference": number_or_text(reference)}


def write_category(category: Any) -> str:
    if not isinstance(category, dict):
        return ""
    reference = category.get("reference")
    if reference is None:
        return ""
    return str(reference)


def _object(written: Any) -> dict[str, Any]:
    if not isinstance(written, dict):
        return {}
    return written


class ColumnEditor:
    """The lines on the page; they follow the draft, and change it."""

    def __init__(self, visit: Visit, draft: Draft) -> None:
        self.visit = visit
        self.draft = draft
        self.rows: list[ColumnRow] = []

    def build(self) -> None:
        t = self.visit.t
        self.place = ui.element("div")
        self.place.classes("columns")
        with box("row"):
            self.names = ui.input(t("Add columns, with commas between"))
            self.names.style("flex:1 1 16em")
            self.names.on("keydown.enter", self.add)
            add = ui.button(t("Add"), on_click=self.add)
            add.props("no-caps outline dense")
        self.follow()
        self.draft.watch(self.follow)

    def follow(self) -> None:
        """Shows the draft; lines that say the same already are left as they are, with
        the cursor in them.
        """
        rows = rows_of(self.draft.body)
        fields = fields_of(rows)
        if self.rows and fields == fields_of(self.rows):
            return
        self.rows = rows
        self.show()

    def show(self) -> None:
        self.place.clear()
        with self.place:
            for row in self.rows:
                self._line(row)

    def add(self) -> None:
        written = str(self.names.value or "")
        known_names = {row.name for row in self.rows}
        for piece in written.split(","):
            column_name = piece.strip()
            if column_name and column_name not in known_names:
                self.rows.append(ColumnRow(column_name))
                known_names.add(column_name)
        self.names.value = ""
        self.show()
        self.tell()

    def tell(self) -> None:
        """Writes the lines into the draft."""
        body = self.draft.body
        fields = fields_of(self.rows)
        for field_name, field_value in fields.items():
            if field_value or field_name == "attributes":
                body[field_name] = field_value
            else:
                body.pop(field_name, None)
        self.draft.tell()

    def _line(self, row: ColumnRow) -> None:
        t = self.visit.t
        kind_labels = {}
        for kind_name, kind_label in KINDS.items():
            kind_labels[kind_name] = t(kind_label)
        removes = t("Remove")
        with box("line"):
            name_input = ui.input(
                t("Column"),
                value=row.name,
            )
            kind_input = ui.select(
                kind_labels,
                label=t("Is"),
                value=row.kind,
            )
            more = ui.input("", value=row.more)
            drop = ui.button("×")
        name_input.props("dense")
        kind_input.props("dense")
        more.props("dense")
        drop.props("flat dense round")
        drop.props(f'aria-label="{removes} {row.name}"')

        def label() -> None:
            more_label = t("Expression, such as ln(chol) or age >= 65")
            if row.kind == CATEGORY:
                more_label = t("Reference level (empty: the most frequent)")
            more.props(f'label="{more_label}"')
            more.set_visibility(row.kind != NUMBER)

        def change() -> None:
            row.name = str(name_input.value or "")
            row.kind = kind_input.value
            row.more = str(more.value or "")
            label()
            self.tell()

        def remove() -> None:
            self.rows.remove(row)
            self.show()
            self.tell()

        label()
        for field in (name_input, kind_input, more):
            field.on_value_change(change)
        drop.on_click(remove)
