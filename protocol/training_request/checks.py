"""What fits together in a training order.

Each check raises BadRequest with the field, what is wrong and what to write instead.
Those of Newton's method are in `protocol.regression_request`.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

from analytics.scores import most_attackers
from protocol.errors import bad_request
from protocol.fields import describe
from protocol.regression_request import (
    check_compare,
    check_cox,
    check_errors,
    check_firth,
    check_glm,
    check_meta,
    check_newton,
    check_offset,
    check_site_effect,
    check_weights,
)
from protocol.start_window import check_smallest, check_window
from protocol.training_request.model_params import HIDDEN, EncryptParam, InitParam
from protocol.training_request.request import TrainingRequest


def parse_training_request(body: Any) -> TrainingRequest:
    """A checked request.

    InvalidInput for a malformed field, BadRequest for a combination that cannot be
    honoured.
    """
    return parse_as(TrainingRequest, body)


def parse_as(form: type[TrainingRequest], body: Any) -> TrainingRequest:
    try:
        request = form.model_validate(body)
    except ValidationError as error:
        raise describe(error) from None
    check_training_request(request)
    return request


def check_training_request(request: TrainingRequest) -> None:
    """BadRequest for a combination of fields that cannot be honoured."""
    # Before anything that looks at a glm's family.
    check_glm(request)
    _check_parties(request)
    check_cox(request)
    _check_columns(request)
    _check_layers(request)
    _check_combination(request)
    _check_aggregation(request)
    check_newton(request)
    check_meta(request)
    check_site_effect(request)
    check_offset(request)
    check_weights(request)
    _check_subgroups(request)
    _check_sealed_model(request)
    check_errors(request)
    check_compare(request)
    check_firth(request)
    _check_reader(request)
    _check_window(request)


def _check_window(request: TrainingRequest) -> None:
    needs_all = ""
    if request.is_open:
        needs_all = "method None tells the coordinator each hospital's gradients"
    elif request.evaluates is not None:
        needs_all = "an evaluation is over all of its hospitals"
    elif request.compare is not None:
        needs_all = f"compare holds it against model {request.compare}, of all of that model's hospitals"
    check_window(request, n_hospitals=len(request.hospitals), needs_all=needs_all)
    if request.at_least is not None:
        check_smallest(lambda: _check_numbers(request.smallest), request.at_least)


def _check_numbers(request: TrainingRequest) -> None:
    """What needs a certain number of hospitals."""
    _check_aggregation(request)
    check_meta(request)
    check_site_effect(request)
    check_errors(request)


def _check_reader(request: TrainingRequest) -> None:
    has_report = request.is_newton or request.evaluates is not None
    if request.reader is not None and not has_report:
        raise bad_request(
            "reader",
            "reader is given, and an order that newton does not train has no report to seal.",
            "Leave reader out, or order glm or cox, or lr or linear with optimizer newton.",
        )


def _check_parties(request: TrainingRequest) -> None:
    if request.user_id in request.party_id:
        raise bad_request(
            "party_id",
            f"party_id holds the initiator {request.user_id}.",
            "List only the other hospitals.",
        )
    if len(set(request.party_id)) != len(request.party_id):
        raise bad_request(
            "party_id", "party_id names a hospital twice.", "Name each hospital once."
        )
    hospitals = set(request.hospitals)
    _check_owners("data_info", set(request.data_info), hospitals, complete=True)
    _check_owners(
        "test_data_info", set(request.test_data_info), hospitals, complete=False
    )


def _check_owners(
    field: str, owners: set[int], hospitals: set[int], *, complete: bool
) -> None:
    strangers = owners - hospitals
    if strangers:
        sentence = f"{field} has SQL for {_listed(strangers)}, not in this order."
        raise bad_request(field, sentence, "Remove it or add the party.")
    missing = hospitals - owners
    if complete and missing:
        raise bad_request(
            field,
            f"{field} has no SQL for {_listed(missing)}.",
            "Give each hospital its SQL.",
        )


def _check_columns(request: TrainingRequest) -> None:
    attribute_names = request.attributes
    if len(set(attribute_names)) != len(attribute_names):
        raise bad_request(
            "attributes", "attributes names a column twice.", "Name each column once."
        )
    if len(set(request.complete_on)) < len(request.complete_on):
        raise bad_request(
            "complete_on", "complete_on names a column twice.", "Name each column once."
        )
    # Weights and clusters have checks of their own.
    roles = request.roles
    for name in ("weights", "cluster"):
        roles.pop(name, None)
    for role, name in roles.items():
        if name in attribute_names:
            raise bad_request(
                "attributes",
                f"attributes holds the {role} column.",
                "A column has one role.",
            )
    if len(set(roles.values())) < len(roles):
        raise bad_request(
            "label_name",
            f"Two of {', '.join(roles)} are the same column.",
            "A column has one role.",
        )
    study = request.study
    if request.model_type == "cnn" and not study.is_plain:
        raise bad_request(
            "model_type",
            "categorical, derive and missing are not for the pixels of a cnn.",
            "Leave them out, or order another model_type.",
        )


def _check_subgroups(request: TrainingRequest) -> None:
    name = request.subgroups
    other_roles = {
        role: column for role, column in request.roles.items() if column == name
    }
    if name is not None and other_roles:
        raise bad_request(
            "group_by",
            f"group_by {name} is the column of {', '.join(other_roles)}, too.",
            "Name another column.",
        )


def _check_sealed_model(request: TrainingRequest) -> None:
    without = set(request.seals_model_to)
    if request.user_id in without or not without <= set(request.hospitals):
        raise bad_request(
            "model",
            "model_to names the initiator, who seals the model, or a hospital that takes no part.",
            "Leave it out: POST /model/evaluate finds who has not trained the model.",
        )


def _check_layers(request: TrainingRequest) -> None:
    params = request.model_params
    is_network = request.model_type in HIDDEN
    # A field is never ignored: what means nothing for this model is refused.
    if params.hidden is not None and not is_network:
        raise bad_request(
            "hidden",
            "hidden is given for a model without hidden layers.",
            "Leave it out, or order mlp or cnn.",
        )
    if is_network and not request.init_method.startswith("random"):
        raise bad_request(
            "init_method",
            "A network whose initial weights are all equal cannot be trained: its hidden units stay equal.",
            "Use random_normal or random_uniform, or leave init_method out.",
        )
    if request.model_type == "cnn":
        _check_shape(request)
    elif params.shape is not None:
        raise bad_request(
            "shape",
            "shape is given for a model that is not for images.",
            "Leave it out, or order cnn.",
        )


def _check_shape(request: TrainingRequest) -> None:
    shape = request.shape
    n_attributes = len(request.attributes)
    n_pixel_values = math.prod(shape)
    if not shape:
        raise bad_request(
            "shape",
            "A cnn needs the shape of its images.",
            "Give [height, width], or with channels as third.",
        )
    if min(shape[:2]) < 4:
        raise bad_request(
            "shape",
            "A cnn halves its images twice.",
            "Give a height and a width of 4 or more.",
        )
    if n_pixel_values != n_attributes:
        raise bad_request(
            "shape",
            f"shape is for {n_pixel_values} pixel values, and there are {n_attributes} attributes.",
            "List the attributes pixel by pixel, row by row, the channels of each pixel together.",
        )


def _check_combination(request: TrainingRequest) -> None:
    params = request.model_params
    if request.validation_fraction is not None and request.test_data_info:
        raise bad_request(
            "validation_fraction",
            "validation_fraction and test_data_info both say which rows test the model.",
            "Give one of them.",
        )
    init, encrypt = params.init_param, params.encrypt_param
    if init.init_method != "const" and init.init_const != InitParam().init_const:
        raise bad_request(
            "init_const",
            "init_const is given, and init_method is not const.",
            "Leave it out, or choose const.",
        )
    if encrypt.method != "Paillier" and encrypt.key_length != EncryptParam().key_length:
        raise bad_request(
            "key_length",
            "key_length is given for a method without keys of a length.",
            "Leave it out.",
        )
    if params.cv_param.need_cv and request.validation_fraction is not None:
        raise bad_request(
            "validation_fraction",
            "validation_fraction and cross-validation both hold rows back.",
            "Set need_cv to false or leave validation_fraction out.",
        )
    if params.convergence == "abs" and params.tolerance == 0:
        raise bad_request(
            "eps", "converge_func abs with eps 0 can never be met.", "Give eps above 0."
        )


def _check_aggregation(request: TrainingRequest) -> None:
    rule = request.aggregation
    most = most_attackers(rule, len(request.hospitals))
    if rule == "mean":
        if request.n_attackers is not None:
            raise bad_request(
                "n_attackers",
                "n_attackers is given, and the mean bears none.",
                "Choose another aggregation.",
            )
        return
    if most < 1:
        raise bad_request(
            "aggregation",
            f"{rule} bears no attacker among so few hospitals.",
            "Add hospitals, or order mean.",
        )
    if request.assumed_attackers > most:
        raise bad_request(
            "n_attackers",
            f"{rule} bears {most} attackers among these hospitals.",
            "Give fewer n_attackers.",
        )
    if request.scoring == "none":
        raise bad_request(
            "scoring",
            f"{rule} looks at the hospitals' gradients, and scoring is none.",
            "Order scoring round.",
        )
    if not request.chooses and not request.is_open:
        raise bad_request(
            "aggregation",
            f"{rule} needs every gradient in clear, and the method hides them.",
            "Order multi_krum or minimum_diameter, or method None where all policies allow it.",
        )


def _listed(user_ids: set[int]) -> str:
    return "hospital " + ", ".join(str(user_id) for user_id in sorted(user_ids))
