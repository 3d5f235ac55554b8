"""The folded part of a study's form: how its standard errors are made, what a Cox model
calls a baseline, how hospitals are taken together, and with which earlier study it is
compared.

No rule of the API stands here but what the field beside it says. What a hospital's policy
must allow and its agent tells nobody, `cautions` says in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from nicegui import ui

from analytics.training import (
    Baseline,
    Dispersion,
    Pooling,
    SiteEffect,
    StandardErrors,
    Ties,
    TimeScale,
)
from api.pages.form import Fields, Path, box, number_or_text
from api.pages.frame import html, shown
from api.pages.order_kinds import KINDS, STUDIES, kind_of
from api.pages.order_list import members_of
from protocol.regression_request import HOSPITAL

STUDIED = tuple(name for name, kind in KINDS.items() if kind.group == STUDIES)
POOLED = ("logistic", "least_squares", "glm")
"""The studies whose hospitals may be taken together otherwise than as one table."""

CLUSTER = "cluster"
ERRORS = {
    None: "by the model (default)",
    "HC0": "robust: HC0",
    "HC1": "robust: HC1, for few rows",
    CLUSTER: "robust, by clusters",
}
BASELINES = {
    None: "of each hospital (default)",
    "joint": "one for all hospitals",
}
POOLINGS = {
    None: "as one table (default)",
    "meta": "meta-analysis",
}
SITE_EFFECTS = {
    None: "none",
    "fixed": "an intercept of its own",
    "random": "a random intercept (linear)",
}

JOINT = (
    "One baseline for all hospitals opens sums over who is at risk: each policy must allow risk_sets. Agents do not "
    "tell that rule, so a hospital may refuse what is not foreseen below."
)
OF_SITES = (
    "An intercept for each hospital opens sums of its rows alone: each policy must allow hospital_sums. Agents do not "
    "tell that rule, so a hospital may refuse what is not foreseen below."
)
CLUSTERED = (
    "Clusters must be many, and more than the model has coefficients: with hospitals as clusters 5 hospitals at "
    "least."
)
COMPARED = (
    "The earlier study has some of these columns and no others, and the same rows: each hospital looks whether its "
    "rows have changed since, and refuses if they have. It is a likelihood-ratio test, of models without a penalty."
)
NONE_EARLIER = "There is no earlier study of this kind to compare with."


def model_param(*names: str) -> Path:
    """Where a model's parameter is in a body."""
    return ("model_params", *names)


def errors_of(params: Any) -> str | None:
    """How a body makes standard errors: one of `ERRORS`.

    >>> errors_of({"cluster": "hospital"}), errors_of({"standard_errors": "HC1"})
    ('cluster', 'HC1')
    >>> errors_of({"standard_errors": "model"}), errors_of(None)
    (None, None)
    """
    if not isinstance(params, Mapping):
        return None
    if params.get(CLUSTER) is not None:
        return CLUSTER
    standard_errors = params.get("standard_errors")
    # A person may have written anything there.
    if not isinstance(standard_errors, str) or standard_errors not in ERRORS:
        return None
    return standard_errors


def with_errors(
    params: Any,
    chosen: str | None,
) -> dict[str, Any]:
    """The parameters with standard errors made otherwise: two fields of the body are one
    choice.

    >>> with_errors({"family": "poisson", "standard_errors": "HC0"}, "cluster")
    {'family': 'poisson', 'cluster': 'hospital'}
    """
    changed: dict[str, Any] = {}
    if isinstance(params, Mapping):
        changed.update(params)
    changed.pop("standard_errors", None)
    changed.pop(CLUSTER, None)
    if chosen == CLUSTER:
        changed[CLUSTER] = HOSPITAL
    elif chosen is not None:
        changed["standard_errors"] = chosen
    return changed


def cautions(body: Mapping[str, Any]) -> list[str]:
    """What a person should know of what the body asks, beside what is foreseen."""
    params = body.get("model_params")
    if not isinstance(params, Mapping):
        params = {}
    sentences = []
    if params.get("baseline") == "joint":
        sentences.append(JOINT)
    if params.get("site_effect") is not None:
        sentences.append(OF_SITES)
    if params.get(CLUSTER) is not None:
        sentences.append(CLUSTERED)
    if body.get("compare") is not None:
        sentences.append(COMPARED)
    return sentences


def earlier_studies(
    orders: Sequence[Mapping[str, Any]],
    body: Mapping[str, Any],
) -> list[Mapping[str, Any]]:
    """The trained models of the body's model type. Which optimizer an order had is not
    listed: what has no report is refused with a sentence.
    """
    asked_type = str(body.get("model_type"))
    studies = []
    for order in orders:
        if order["kind"] != "train" or order["state"] != "success":
            continue
        model_type = str(order["model_type"])
        if model_type.lower() == asked_type.lower():
            studies.append(order)
    return studies


class EstimateFields:
    """The part on the page."""

    def __init__(
        self,
        fields: Fields,
        orders: Sequence[Mapping[str, Any]],
    ) -> None:
        self.fields = fields
        self.orders = orders

    def build(self) -> None:
        t = self.fields.visit.t
        title = t("More about the estimates: standard errors, hospitals, comparison")
        more = ui.expansion(title)
        with more.classes("wide") as estimates_part:
            with box("fields"):
                self._show_survival()
                self._show_errors()
                self._show_hospitals()
                self._show_comparison()
            caution_notes = html("")
        self._only_for(estimates_part, STUDIED)

        def follow() -> None:
            sentences = ""
            for sentence in cautions(self.fields.draft.body):
                caution = shown(t(sentence))
                sentences += f'<p class="soft">{caution}</p>'
            caution_notes.set_content(sentences)

        follow()
        self.fields.draft.watch(follow)

    def _only_for(self, part: Any, kinds: Sequence[str]) -> None:
        self.fields.shown_while(part, lambda body: kind_of(body) in kinds)

    def _worded(
        self,
        values: Sequence[str],
        words: Mapping[str | None, str],
    ) -> dict[Any, str]:
        """The API's values with our words, after None for the default."""
        t = self.fields.visit.t
        default = t(words[None])
        labels: dict[Any, str] = {None: default}
        for value in values:
            labels[value] = value
            if value in words:
                labels[value] = t(words[value])
        return labels

    def _show_survival(self) -> None:
        t = self.fields.visit.t
        fields = self.fields
        ties = fields.choice(
            model_param("ties"),
            t("Events at one time"),
            [None, *get_args(Ties)],
            unsaid="efron",
        )
        hazards = fields.choice(
            model_param("hazards_time"),
            t("Proportional hazards are tested against"),
            [None, *get_args(TimeScale)],
            unsaid="log",
        )
        _, *other_baselines = get_args(Baseline)
        baseline_labels = self._worded(other_baselines, BASELINES)
        of_baseline = model_param("baseline")
        of_edges = model_param("edges")
        baseline = fields.choice(of_baseline, t("Baseline hazard"), baseline_labels)
        edges = fields.words(
            of_edges,
            t("Edges of the time intervals: 1, 2, 3"),
            number_or_text,
        )
        for field in (ties, hazards, baseline):
            self._only_for(field, ["cox"])

        def has_edges(body: Mapping[str, Any]) -> bool:
            chosen = fields.draft.get(of_baseline)
            return bool(chosen == "joint")

        fields.shown_while(edges, has_edges)

        def forget_edges(event: Any) -> None:
            """They belong to a joint baseline."""
            if event.value is None and not fields.draft.is_telling:
                fields.draft.put(of_edges, None)

        baseline.on_value_change(forget_edges)

    def _show_errors(self) -> None:
        t = self.fields.visit.t
        fields = self.fields
        draft = fields.draft
        params = model_param()
        of_cluster = model_param(CLUSTER)
        dispersion = fields.choice(
            model_param("dispersion"),
            t("Dispersion"),
            [None, *get_args(Dispersion)],
            unsaid=t("the family's usual one"),
        )
        _, *robust = get_args(StandardErrors)
        error_labels = self._worded([*robust, CLUSTER], ERRORS)
        choice: Any = ui.select(error_labels, label=t("Standard errors"))
        cluster = fields.text(
            of_cluster,
            t("Clusters: hospital, or a column"),
        )
        for field in (dispersion, choice):
            self._only_for(field, ["glm"])

        def follow() -> None:
            model_params = draft.body.get("model_params")
            choice.value = errors_of(model_params)

        def change(event: Any) -> None:
            if draft.is_telling:
                return
            model_params = draft.get(params)
            if event.value != errors_of(model_params):
                draft.put(params, with_errors(model_params, event.value))

        def has_clusters(body: Mapping[str, Any]) -> bool:
            return draft.get(of_cluster) is not None

        follow()
        choice.on_value_change(change)
        draft.watch(follow)
        fields.shown_while(cluster, has_clusters)

    def _show_hospitals(self) -> None:
        t = self.fields.visit.t
        fields = self.fields
        _, *other_poolings = get_args(Pooling)
        pooling = fields.choice(
            model_param("pooling"),
            t("Hospitals are taken together"),
            self._worded(other_poolings, POOLINGS),
        )
        effect = fields.choice(
            model_param("site_effect"),
            t("Effect of each hospital"),
            self._worded(get_args(SiteEffect), SITE_EFFECTS),
        )
        for field in (pooling, effect):
            self._only_for(field, POOLED)

    def _show_comparison(self) -> None:
        t = self.fields.visit.t
        draft = self.fields.draft
        label = t("Compare with an earlier study")
        choice = self.fields.choice(
            ("compare",),
            label,
            self._offered(),
        )
        self._only_for(choice, STUDIED)

        def follow() -> None:
            offered = self._offered()
            compared_order = draft.body.get("compare")
            if compared_order not in offered:
                compared_order = None
            choice.set_options(offered, value=compared_order)

        draft.watch(follow)

    def _offered(self) -> dict[Any, str]:
        t = self.fields.visit.t
        body = self.fields.draft.body
        offered: dict[Any, str] = {}
        for order in earlier_studies(self.orders, body):
            order_id = order["order_id"]
            members = members_of(order)
            n_hospitals = t("{n} hospitals", n=len(members))
            offered[order_id] = f"{order_id}: {n_hospitals}"
        # One that was written by hand, and is not among the newest.
        written = body.get("compare")
        if isinstance(written, int):
            offered.setdefault(written, str(written))
        nothing = t("none") if offered else t(NONE_EARLIER)
        return {None: nothing, **offered}
