"""The payload by which a hospital shows its gradient of a round, so that the coordinator
scores it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from analytics.arrays import Floats
from protocol.messages.json_text import bad_message, read_fields, to_json

BETWEEN = ("step", "drift", "dot", "norm")
"""|g_i(t) - g_i(t-1)|, |g_i(t) - gbar(t-1)|, <g_i(t), gbar(t-1)>, |gbar(t-1)| of one
layer.
"""

READERS = ("parties", "operator")
"""Who may read scores, as a policy says."""

# The length of the head in JSON, before it; behind it numbers.
_HEAD_LENGTH = struct.Struct(">I")
_FLOAT64 = np.dtype(">f8")

_MOST_LAYERS = 1000
_MOST_WEIGHTS = 2**32
# Of a gradient that is shown: the squares of many have a sum that a float holds.
_LARGEST_SHOWN = 1e140


@dataclass(frozen=True)
class Vectors:
    """A hospital to the coordinator: its gradient of a round in the order's frame, for
    scores; dropped when used.
    """

    # By layer, float64 (d,), rotated by a key of the hospitals unless the order's
    # method is None.
    layers: dict[str, Floats]
    # By layer, float64 (4,), what compares this round with the one before (`BETWEEN`);
    # empty in a first round and with scoring round.
    between: dict[str, Floats] = field(default_factory=dict)
    # Who may read scores by this hospital's policy: parties or operator.
    readers: str = "parties"

    def encode(self) -> bytes:
        lengths = []
        for layer_name, values in self.layers.items():
            n_values = len(values)
            lengths.append([layer_name, n_values])
        head_fields = {
            "layers": lengths,
            "between": list(self.between),
            "readers": self.readers,
        }
        head = to_json(head_fields)
        head_length = _HEAD_LENGTH.pack(len(head))
        parts = [head_length, head]
        of_layers = self.layers.values()
        compared = self.between.values()
        for values in (*of_layers, *compared):
            numbers = values.astype(_FLOAT64).tobytes()
            parts.append(numbers)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _HEAD_LENGTH.size:
            raise bad_message("of kind vectors is too short")
        (head_length,) = _HEAD_LENGTH.unpack_from(data)
        head_end = _HEAD_LENGTH.size + head_length
        head_fields: dict[str, type] = {
            "layers": list,
            "between": list,
            "readers": str,
        }
        head_bytes = data[_HEAD_LENGTH.size : head_end]
        head = read_fields(head_bytes, head_fields)
        named = head["layers"]
        compared = head["between"]
        readers = head["readers"]
        if not _are_lengths(named) or readers not in READERS:
            raise bad_message("of kind vectors has layers or readers that are none")
        lengths = dict(named)
        # All of the layers are compared with the round before, or none.
        layer_names = list(lengths)
        is_compared = compared in ([], layer_names)
        if len(layer_names) < len(named) or not is_compared:
            raise bad_message(
                "of kind vectors names a layer twice, or compares others than it has"
            )
        numbers = data[head_end:]
        layers, between = _split_numbers(numbers, lengths, compared)
        return cls(layers, between, readers)


def _are_lengths(layers: list[Any]) -> bool:
    """Whether this is a list of layers, each a name and its number of weights, as
    `Vectors.encode` writes it.
    """
    if len(layers) > _MOST_LAYERS:
        return False
    for layer in layers:
        if not isinstance(layer, list):
            return False
        if len(layer) != 2:
            return False
        layer_name, length = layer
        # A bool is an int only to isinstance.
        if type(layer_name) is not str:
            return False
        if type(length) is not int:
            return False
        if not 1 <= length <= _MOST_WEIGHTS:
            return False
    return True


def _split_numbers(
    data: bytes,
    lengths: dict[str, int],
    between: list[str],
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """By layer its vector, and by layer the numbers of BETWEEN."""
    counts = list(lengths.values())
    for _ in between:
        counts.append(len(BETWEEN))
    n_numbers = sum(counts)
    if len(data) != _FLOAT64.itemsize * n_numbers:
        raise bad_message("of kind vectors has another length than it says")
    big_endian = np.frombuffer(data, dtype=_FLOAT64)
    numbers = big_endian.astype(np.float64)
    are_finite = np.isfinite(numbers)
    are_small = np.abs(numbers) <= _LARGEST_SHOWN
    are_numbers = are_finite & are_small
    if not are_numbers.all():
        raise bad_message("of kind vectors holds what is no number of a gradient")
    if not counts:
        return {}, {}
    ends = np.cumsum(counts)
    split_numbers = np.split(numbers, ends[:-1])
    n_layers = len(lengths)
    of_layers = split_numbers[:n_layers]
    of_between = split_numbers[n_layers:]
    vectors = dict(zip(lengths, of_layers, strict=True))
    comparisons = dict(zip(between, of_between, strict=True))
    return vectors, comparisons
