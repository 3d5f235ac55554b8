"""Hospitals that an analyst has named become user ids."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.errors import NotFound, bad_request
from protocol.statistics_request.checks import parse_statistics_request
from protocol.statistics_request.document import sent_fields
from protocol.statistics_request.request import StatisticsRequest


def resolve(
    request: StatisticsRequest, names: Mapping[int, str], *, initiator: int
) -> StatisticsRequest:
    """The request as it was sent, with user ids in place of names, and who asks.

    `names` are the registered hospitals'. NotFound for one that is not among them;
    BadRequest when two entries are one hospital, when a provider's data have no place,
    or when who asks is no party.
    """
    users_by_name = {str(user_id): user_id for user_id in names}
    for user_id, hospital_name in names.items():
        users_by_name[hospital_name] = user_id

    def user_of(name: int | str) -> int:
        if str(name) not in users_by_name:
            raise NotFound(
                f"There is no hospital {name}.",
                remedy="GET /hospitals lists them.",
                code="user",
            )
        return users_by_name[str(name)]

    body = sent_fields(request)
    body["data_providers"] = [
        {**provider.model_dump(mode="json"), "name": user_of(provider.name)}
        for provider in request.data_providers
    ]
    body["result_receivers"] = [user_of(name) for name in request.result_receivers]
    body["user_id"] = initiator
    # Checked again: two names of one hospital were two entries so far.
    resolved = parse_statistics_request(body)
    if not all(provider.data_path.strip() for provider in resolved.data_providers):
        raise bad_request(
            "data_path",
            "A provider's data_path is empty.",
            "Name its file, table or SELECT.",
        )
    if initiator not in resolved.hospitals:
        raise bad_request(
            "user_id",
            "Who asks is neither a provider nor a receiver.",
            "A hospital's user asks for what that hospital takes part in.",
        )
    return resolved
