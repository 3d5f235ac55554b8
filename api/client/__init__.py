"""Consilium from a notebook or a script: orders, statistics, scores and schedules,
without a line of HTTP.

>>> from api.client.stand_in import stand_in
>>> federation = stand_in()  # elsewhere: Federation("https://consilium.example", token_file="token")
>>> order = federation.submit(model_type="lr", party_id=[2, 3])  # and the other fields of POST /model/train
>>> order.wait()
<Order 37: success>
>>> order.metrics()[["round", "hospital", "train_accuracy"]].tail(2)
   round  hospital  train_accuracy
2      1         2            0.90
3      1         4            0.93

What goes wrong is one of protocol.errors, with its sentence and remedy, as the REST API
says it.
"""

from api.client.federation import Federation
from api.client.orders import Order
from api.client.results import Scores, StatisticsResult
from api.client.schedules import Schedule
from protocol.study import STUDY as STUDY

__all__ = ["STUDY", "Federation", "Order", "Schedule", "Scores", "StatisticsResult"]
