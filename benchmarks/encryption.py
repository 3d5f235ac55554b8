"""Packed Paillier and masks against phe's per-value interface, at the key length of
real orders.

.venv/bin/python -m benchmarks.encryption

Encryption counts the making of its obfuscators in, so the ratio holds without any idle
time. The table behind them is made once per order and hospital; a first round of 6,200
values, table included, is shown beside the later ones.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np

from benchmarks.clock import timed
from protocol.sums import (
    EncryptMethod,
    mask_graph,
    masks,
    packing,
    paillier,
    secure_sum,
)
from protocol.sums.paillier import Obfuscators
from protocol.sums.sum_keys import SumKeys

KEY_BITS = 2048
ROWS = {1: 400, 2: 300, 3: 50}
N_PAILLIER = 31 * 200
N_MASK = 500_000
N_PHE = 40
TARGETS = {"encryption": 350, "decryption": 25}
INFO = b"benchmark"


def main() -> None:
    """Print times, ratios and whether the TARGETS are met."""
    private = paillier.generate_keys(KEY_BITS)
    phe_encrypt, phe_decrypt = phe_seconds_per_value(private)
    ours = paillier_seconds_per_value(private)
    print(f"key of {KEY_BITS} bits, {paillier.THREADS} threads, microseconds per value")
    for name, seconds in {
        "phe encrypt": phe_encrypt,
        "phe decrypt": phe_decrypt,
        **ours,
    }.items():
        print(f"  {name:38}{seconds * 1e6:12.3f}")
    report("encryption", phe_encrypt / ours["packed encryption"])
    report("decryption", phe_decrypt / ours["packed decryption"])
    print(
        f"first round, table included: {phe_encrypt / ours['  in the first round, table included']:.0f} times"
    )
    compare_methods(private)
    compare_mask_graphs()


def report(name: str, ratio: float) -> None:
    verdict = "met" if ratio >= TARGETS[name] else "MISSED"
    print(
        f"{name}: {ratio:.0f} times as fast as phe per value (target {TARGETS[name]}, {verdict})"
    )


def phe_seconds_per_value(private: Any) -> tuple[float, float]:
    """Encryption and decryption of one float by phe's own interface, with gmpy2 beneath
    it.
    """
    values = np.random.default_rng(0).normal(size=N_PHE).tolist()
    encrypt, encrypted = timed(
        lambda: [private.public_key.encrypt(value) for value in values]
    )
    decrypt, _ = timed(lambda: [private.decrypt(number) for number in encrypted])
    return encrypt / N_PHE, decrypt / N_PHE


def paillier_seconds_per_value(private: Any) -> dict[str, float]:
    """The same for a packed vector: from words to ciphertexts and back."""
    public, words = private.public_key, np.arange(N_PAILLIER) - N_PAILLIER // 2
    count, form = (
        packing.n_plaintexts(N_PAILLIER, KEY_BITS),
        {"weight": 7, "offset": 2**60, "bits": KEY_BITS},
    )
    base, stock = timed(lambda: Obfuscators(public))
    first, _ = timed(lambda: stock.prepare(count))
    # Nothing that was made ahead is left: the next preparation is a whole one.
    stock.take_many(count)
    later, _ = timed(lambda: stock.prepare(count))
    waiting, ciphertexts = timed(
        lambda: paillier.encrypt(public, packing.pack(words, **form), stock)
    )
    decrypt, sums = timed(
        lambda: packing.unpack(
            paillier.decrypt(private, ciphertexts), N_PAILLIER, **form
        )
    )
    if sums.tolist() != words.tolist():
        raise SystemExit("The packed scheme did not give the words back.")
    seconds = {
        "packed encryption": later + waiting,
        "  of which cannot be made ahead": waiting,
        "  in the first round, table included": base + first + waiting,
        "packed decryption": decrypt,
    }
    return {name: value / N_PAILLIER for name, value in seconds.items()}


def compare_methods(private: Any) -> None:
    """A whole sealed sum by Paillier and by Mask: one hospital's, the coordinator's and
    the initiator's work.
    """
    print(
        "whole sum of 3 hospitals      seal        add       open   us/value;  bytes/value"
    )
    methods: dict[EncryptMethod, int] = {
        "Paillier": N_PAILLIER,
        "Mask": N_MASK,
        "None": N_MASK,
    }
    costs = {
        method: method_seconds_per_value(method, d, private)
        for method, d in methods.items()
    }
    for method, (*seconds, size) in costs.items():
        print(
            f"  {method:20}"
            + "".join(f"{s * 1e6:11.3f}" for s in seconds)
            + f"{size:18.2f}"
        )
    ratio = sum(costs["Paillier"][:3]) / sum(costs["Mask"][:3])
    print(
        f"Mask: {ratio:.0f} times less work than Paillier; phe per value: {2 * KEY_BITS / 8:.0f} bytes per value"
    )


def method_seconds_per_value(
    method: EncryptMethod, d: int, private: Any
) -> tuple[float, float, float, float]:
    keys = {me: sum_keys(method, me, private) for me in ROWS}
    values = np.random.default_rng(0).normal(size=d)
    seal, payloads = timed(
        lambda: {me: secure_sum.seal(keys[me], values, info=INFO) for me in ROWS}
    )
    add, total = timed(lambda: secure_sum.add(method, payloads, public=keys[1].public))
    opened, _ = timed(
        lambda: secure_sum.open_sum(keys[1], total, info=INFO, private_key=private)
    )
    return seal / len(ROWS) / d, add / d, opened / d, len(payloads[1]) / d


def sum_keys(method: EncryptMethod, me: int, private: Any) -> SumKeys:
    public = private.public_key if method == "Paillier" else None
    return SumKeys(
        method=method,
        me=me,
        members=tuple(ROWS),
        n_rows=ROWS,
        pair_keys={
            peer: hashlib.sha256(bytes(sorted((me, peer)))).digest()
            for peer in ROWS
            if peer != me
        },
        group_key=hashlib.sha256(b"order secret").digest(),
        public=public,
        obfuscators=with_table(public) if public else None,
    )


def with_table(public: Any) -> Obfuscators:
    """Obfuscators as they are after an order's first round: the tables are there, the
    stock is empty.
    """
    obfuscators = Obfuscators(public)
    obfuscators.take()
    return obfuscators


def compare_mask_graphs() -> None:
    """CPU seconds of one hospital's pair masks in one sum: with all others, and with its
    neighbours of a sparse graph. The keys are there already.
    """
    print("pair masks of one hospital      words   complete     sparse  ratio   peers")
    seed = hashlib.sha256(b"graph").digest()
    for n_hospitals in (64, 100, 300):
        members = range(2, n_hospitals + 2)
        for n_words in (100_000, 1_000_000):
            seconds = {}
            for name, own_seed in (("complete", None), ("sparse", seed)):
                began = time.process_time()
                peers = mask_graph.peers(members, 2, seed=own_seed)
                keys = {peer: bytes(28) + peer.to_bytes(4, "big") for peer in peers}
                masks.mask_words(keys, 2, n_words, INFO)
                seconds[name] = time.process_time() - began
            complete, sparse = seconds["complete"], seconds["sparse"]
            print(
                f"  {n_hospitals:4} hospitals {n_words:20} {complete:10.3f} {sparse:10.3f} {complete / sparse:6.1f}"
                f" {len(peers):7}"
            )


if __name__ == "__main__":
    main()
