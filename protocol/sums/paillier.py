"""Paillier made cheap: many values to a plaintext, obfuscators from a table, powers in threads.

    c = (1 + n m) h^x mod n^2            Damgard, Jurik and Nielsen 2010, section 4.2
    Dec(c_1 c_2 mod n^2) = m_1 + m_2 mod n

The keys are phe's own classes, and phe's `raw_decrypt` reads every ciphertext; only the making of keys and of
obfuscators differs. phe's floats are not used: they send their exponent in clear.

A plaintext of key_bits holds (key_bits - 64) // 64 slots of 64 bits and, above them, a 63-bit row count:

    m = sum_k (word_k + offset) 2^(64 k) + weight 2^(64 slots) < 2^(key_bits - 1) <= n

Keys, obfuscators, encryption and packing, in this order; `secure_sum` puts them together (decision 8).

Decision 3.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import NoReturn, TypeVar

import gmpy2
import numpy as np
from numpy.typing import NDArray
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from protocol.errors import BadRequest, ProtocolViolation

KEY_LENGTHS = (2048, 3072, 4096)
SLOT_BITS = 64
THREADS = 2
TEETH, TABLES = 8, 16  # of the comb (`_Comb`)

RandomBytes = Callable[[int], bytes]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


# Keys ---------------------------------------------------------------------------------------------------------


def generate_keys(key_bits: int, random_bytes: RandomBytes = secrets.token_bytes) -> PaillierPrivateKey:
    """A key pair with p = q = 3 mod 4, gcd(p - 1, q - 1) = 2 and n of exactly `key_bits` bits.

    The initiator runs it once per order; the public half is `.public_key`. The conditions make -y^2 a generator
    of the group that obfuscators come from (Damgard, Jurik and Nielsen 2010). `random_bytes(k)` gives k
    unpredictable bytes. BadRequest `key_length` unless key_bits is 2048, 3072 or 4096.
    """
    _check_length(key_bits)
    return _generate_keys(key_bits, random_bytes)


def public_to_bytes(public: PaillierPublicKey) -> bytes:
    """n, big-endian, in exactly key_bits / 8 bytes. The initiator sends it to all parties."""
    return int(public.n).to_bytes(key_bits(public) // 8, "big")


def public_from_bytes(data: bytes) -> PaillierPublicKey:
    """Inverse of `public_to_bytes`, at every party. ProtocolViolation when it is no modulus of an allowed length."""
    n = int.from_bytes(data, "big")
    n_bits = 8 * len(data)
    # n = 1 mod 4 is what two primes = 3 mod 4 give.
    if n_bits not in KEY_LENGTHS or n.bit_length() != n_bits or n % 4 != 1:
        raise ProtocolViolation(
            "The public key is not a modulus of an allowed length.", remedy="Order again."
        )
    return PaillierPublicKey(n)


def private_to_bytes(private: PaillierPrivateKey) -> bytes:
    """p | q, big-endian, key_bits / 16 bytes each. For the initiator's own vault only: secret."""
    width = key_bits(private.public_key) // 16
    p = int(private.p).to_bytes(width, "big")
    q = int(private.q).to_bytes(width, "big")
    return p + q


def private_from_bytes(data: bytes) -> PaillierPrivateKey:
    """Inverse of `private_to_bytes`, at the initiator. ProtocolViolation when the bytes are not such a key."""
    half = len(data) // 2
    p = int.from_bytes(data[:half], "big")
    q = int.from_bytes(data[half:], "big")
    n_bits = 8 * len(data)
    if n_bits not in KEY_LENGTHS or not _are_key_primes(p, q, bits=n_bits):
        raise ProtocolViolation(
            "The private key in the vault is damaged.", remedy="Restore the vault or order again."
        )
    return PaillierPrivateKey(PaillierPublicKey(p * q), p, q)


def key_bits(public: PaillierPublicKey) -> int:
    """The length of n in bits."""
    return int(public.n).bit_length()


def _check_length(bits: int) -> None:
    if bits not in KEY_LENGTHS:
        raise BadRequest(
            "This Paillier key length is not allowed.",
            remedy="Give key_length 2048, 3072 or 4096.",
            code="key_length",
        )


def _generate_keys(bits: int, random_bytes: RandomBytes) -> PaillierPrivateKey:
    """`generate_keys` without the check of the length: tests use shorter keys (a multiple of 16 bits)."""
    p = q = 0
    while not _are_key_primes(p, q, bits=bits):
        p = _prime(bits // 2, random_bytes)
        q = _prime(bits // 2, random_bytes)
    return PaillierPrivateKey(PaillierPublicKey(p * q), p, q)


def _prime(bits: int, random_bytes: RandomBytes) -> int:
    """A prime = 3 mod 4 with its two highest bits set, so that the product of two has all its bits."""
    while True:
        two_highest_bits = 3 << (bits - 2)
        start = int.from_bytes(random_bytes(bits // 8), "big") | two_highest_bits
        prime = int(gmpy2.next_prime(start))
        if prime % 4 == 3 and prime.bit_length() == bits:
            return prime


def _are_key_primes(p: int, q: int, *, bits: int) -> bool:
    """Whether p and q are what `generate_keys` promises; too near each other, n would be factored by Fermat."""
    return (
        (p * q).bit_length() == bits
        and p % 4 == q % 4 == 3
        and abs(p - q).bit_length() > bits // 2 - 100
        and p != q
        and gmpy2.gcd(p - 1, q - 1) == 2
        and gmpy2.is_prime(p, 40)
        and gmpy2.is_prime(q, 40)
    )


# Obfuscators --------------------------------------------------------------------------------------------------


class Obfuscators:
    """A stock of obfuscators h^x mod n^2, h = (-y^2)^n, one for each ciphertext of one hospital.

    A hospital runs it, with its own y and with x of half the key's bits, as the paper asks; shorter exponents
    would be faster and rest on nothing. They live in memory only. Two ciphertexts with the same obfuscator show the
    difference of their plaintexts to everybody, so each is removed before it is used, and a stock that a fork
    or a copy has doubled is refused: make it after the fork.
    """

    def __init__(self, public: PaillierPublicKey, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self.public = public
        self._random_bytes = random_bytes
        self._pid = os.getpid()
        self._lock = Lock()  # two threads must not take the same obfuscator
        self._stock: list[int] = []
        self._modulus = gmpy2.mpz(public.nsquare)
        self._base = _draw_base(public, random_bytes)

    @property
    def ready(self) -> int:
        """How many obfuscators are in stock."""
        return len(self._stock)

    def prepare(self, count: int) -> None:
        """Fill the stock up to `count`, in idle time, on THREADS threads without the GIL.

        ProtocolViolation `forked_obfuscators` in another process than the one that made this object.
        """
        self._check_process()
        with self._lock:
            self._fill(count)

    def take(self) -> int:
        """One obfuscator that nobody else will get; made on the spot when the stock is empty. Errors: `prepare`."""
        return self.take_many(1)[0]

    def take_many(self, count: int) -> list[int]:
        """`count` obfuscators, as `take`; what is missing in the stock is made in threads."""
        self._check_process()
        with self._lock:
            self._fill(count)
            # Out of the stock before anybody uses them: an error in between loses some and doubles none.
            taken = self._stock[:count]
            self._stock = self._stock[count:]
            return taken

    def __reduce__(self) -> NoReturn:
        raise TypeError("Obfuscators are neither pickled nor copied: a copy would use each of them twice.")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ProtocolViolation(
                "These obfuscators were made in another process.",
                remedy="Make them after the fork.",
                code="forked_obfuscators",
            )

    def _fill(self, count: int) -> None:
        """Up to `count` obfuscators; the randomness is drawn in this thread, in order."""
        n_missing = max(0, count - len(self._stock))
        exponents = [self._random_bytes(self._exponent_bytes) for _ in range(n_missing)]
        if exponents:
            self._stock.extend(_in_threads(self._comb.power, exponents))

    @cached_property
    def _comb(self) -> _Comb:
        return _Comb(self._base, self._modulus, n_bytes=self._exponent_bytes)

    @property
    def _exponent_bytes(self) -> int:
        """Half the key's bits (Damgard, Jurik and Nielsen 2010, section 4.2)."""
        return key_bits(self.public) // 16


def _draw_base(public: PaillierPublicKey, random_bytes: RandomBytes) -> gmpy2.mpz:
    """h = (-y^2)^n mod n^2 for y uniform in the units modulo n."""
    n = gmpy2.mpz(public.n)
    n_bytes = key_bits(public) // 8 + 16  # 128 bits more than n has, so that y is within 2^-128 of uniform
    y = gmpy2.mpz(0)
    while gmpy2.gcd(y, n) != 1:
        drawn = int.from_bytes(random_bytes(n_bytes), "big")
        y = gmpy2.mpz(drawn) % n
    minus_square = -(y * y) % n
    return gmpy2.powmod(minus_square, n, n * n)


class _Comb:
    """Powers of one base by the comb of Lim and Lee (CRYPTO '94): at 2048 bits 16 tables of 256, 2 MB.

    The exponent's bits lie in TEETH rows; a column of them is a digit, and each table holds the powers of all digits at
    the first of its own columns. The tables cost 4,000 products and 1,900 squarings, a power of 1024 bits 128 and 7.
    """

    def __init__(self, base: gmpy2.mpz, modulus: gmpy2.mpz, *, n_bytes: int) -> None:
        self._modulus = modulus
        self._n_columns = 8 * n_bytes // TEETH
        self._width = -(-self._n_columns // TABLES)  # columns that one table serves
        # The tooth of row t is base^(2^(n_columns t)).
        teeth = [base]
        while len(teeth) < TEETH:
            teeth.append(gmpy2.powmod(teeth[-1], 1 << self._n_columns, modulus))
        starts_by_tooth = _in_threads(self._starts, teeth)
        teeth_by_table = list(zip(*starts_by_tooth, strict=True))
        self._tables = _in_threads(self._table, teeth_by_table)

    def power(self, exponent: bytes) -> int:
        """base^x modulo the modulus, x little-endian."""
        bits = np.unpackbits(np.frombuffer(exponent, np.uint8), bitorder="little")
        rows = bits.reshape(TEETH, self._n_columns)
        digits = np.packbits(rows, axis=0, bitorder="little")[0].tolist()
        power = gmpy2.mpz(1)
        # As square and multiply, from the highest column of each table down: all tables share the squarings.
        for column in reversed(range(self._width)):
            power = power * power % self._modulus
            digits_by_table = digits[column :: self._width]
            for table, digit in zip(self._tables, digits_by_table, strict=False):
                power = power * table[digit] % self._modulus
        return int(power)

    def _starts(self, tooth: gmpy2.mpz) -> list[gmpy2.mpz]:
        """The tooth at the first column of each table."""
        starts = [tooth]
        while len(starts) * self._width < self._n_columns:
            starts.append(gmpy2.powmod(starts[-1], 1 << self._width, self._modulus))
        return starts

    def _table(self, teeth: Sequence[gmpy2.mpz]) -> list[gmpy2.mpz]:
        """The product of the teeth that each digit's bits name."""
        products = [gmpy2.mpz(1)]
        for tooth in teeth:
            products += [product * tooth % self._modulus for product in products]
        return products


def _in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """[function(item) for item in items] on THREADS threads, each with gmpy2 releasing the GIL.

    The flag belongs to the thread's own gmpy2 context: set outside, it does nothing and the threads take turns.
    """

    def run(part: Sequence[_Item]) -> list[_Result]:
        with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
            return [function(item) for item in part]

    if len(items) < THREADS:
        return [function(item) for item in items]
    size = -(-len(items) // THREADS)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(THREADS) as pool:
        results_by_part = list(pool.map(run, parts))
    return list(itertools.chain.from_iterable(results_by_part))


# Encryption ---------------------------------------------------------------------------------------------------


def encrypt(public: PaillierPublicKey, plaintexts: Sequence[int], obfuscators: Obfuscators) -> list[int]:
    """c = (1 + n m) * obfuscator mod n^2 for each m in [0, n). A hospital runs it.

    Each ciphertext uses up one obfuscator. ProtocolViolation when a plaintext is out of range or the
    obfuscators belong to another key; `forked_obfuscators` as in `Obfuscators.prepare`.
    """
    _check_range(plaintexts, low=0, high=public.n)
    if obfuscators.public != public:
        raise ProtocolViolation(
            "The obfuscators belong to another key.", remedy="Make them for this order's key."
        )
    n = gmpy2.mpz(public.n)
    modulus = gmpy2.mpz(public.nsquare)
    taken = obfuscators.take_many(len(plaintexts))
    # g = 1 + n, so g^m = 1 + n m mod n^2 and costs no power (Damgard, Jurik and Nielsen 2010).
    return [
        int((1 + n * plaintext) * obfuscator % modulus)
        for plaintext, obfuscator in zip(plaintexts, taken, strict=True)
    ]


def add(public: PaillierPublicKey, contributions: Sequence[Sequence[int]]) -> list[int]:
    """Element by element the product of ciphertexts modulo n^2: a ciphertext of the sum. The coordinator runs it.

    `contributions` are K >= 1 lists of equal length, ciphertexts in (0, n^2). ProtocolViolation when the
    lengths differ or a ciphertext is out of range.
    """
    lengths = {len(contribution) for contribution in contributions}
    if len(lengths) != 1:
        raise ProtocolViolation(
            "The contributions differ in length.", remedy="Order again with equal models."
        )
    for contribution in contributions:
        _check_range(contribution, low=1, high=public.nsquare)
    modulus = gmpy2.mpz(public.nsquare)
    return [_product(column, modulus) for column in zip(*contributions, strict=True)]


def decrypt(private: PaillierPrivateKey, ciphertexts: Sequence[int]) -> list[int]:
    """The plaintexts in [0, n), by phe's own `raw_decrypt` (CRT) on THREADS threads. The initiator runs it.

    Ciphertexts are in (0, n^2), otherwise ProtocolViolation.
    """
    _check_range(ciphertexts, low=1, high=private.public_key.nsquare)
    return _in_threads(private.raw_decrypt, [int(ciphertext) for ciphertext in ciphertexts])


def _product(factors: Iterable[int], modulus: gmpy2.mpz) -> int:
    product = gmpy2.mpz(1)
    for factor in factors:
        product = product * factor % modulus
    return int(product)


def _check_range(numbers: Iterable[int], *, low: int, high: int) -> None:
    if not all(low <= number < high for number in numbers):
        raise ProtocolViolation("A number is out of the key's range.", remedy="Use the key of this order.")


# Packing ------------------------------------------------------------------------------------------------------


def slots_per_plaintext(bits: int) -> int:
    """(key_bits - 64) // 64: 31 at 2048 bits.

    >>> [slots_per_plaintext(bits) for bits in KEY_LENGTHS]
    [31, 47, 63]
    """
    return (bits - SLOT_BITS) // SLOT_BITS


def n_plaintexts(d: int, bits: int) -> int:
    """How many plaintexts (and so obfuscators) a vector of length d takes.

    >>> n_plaintexts(31, 2048), n_plaintexts(32, 2048)
    (1, 2)
    """
    return -(-d // slots_per_plaintext(bits))


def pack(words: NDArray[np.int64], *, weight: int, offset: int, bits: int) -> list[int]:
    """Words (d,) as `n_plaintexts(d, bits)` plaintexts below 2^(bits - 1). A hospital runs it.

    |word| <= offset, so a slot word + offset is in [0, 2 offset]; no slot of a sum carries while the offsets
    of all senders add up to at most 2^62. `weight` (row count) stands above the slots of every plaintext;
    all weights add up to less than 2^63. ProtocolViolation when a word is beyond the offset.
    """
    words = np.asarray(words, dtype=np.int64)
    in_range = 0 <= offset <= 2**62 and 0 <= weight < 2**63
    if not in_range or not _within(words, offset):
        raise ProtocolViolation("A word does not fit its slot.", remedy="Encode with the order's bound.")
    n_rows = n_plaintexts(words.size, bits)
    n_slots = slots_per_plaintext(bits)
    # A row for each plaintext: offset + word in each slot, empty slots too, and the weight in the highest.
    slots = np.full((n_rows, n_slots + 1), offset, dtype="<u8")
    slots[:, -1] = weight
    padded = np.zeros((n_rows, n_slots), dtype=np.int64)
    padded.ravel()[: words.size] = words
    slots[:, :-1] += padded.view(np.uint64)
    return [int.from_bytes(row.tobytes(), "little") for row in slots]


def unpack(plaintexts: Sequence[int], d: int, *, weight: int, offset: int, bits: int) -> NDArray[np.int64]:
    """The summed words int64 (d,) from summed plaintexts. The initiator runs it.

    `weight` and `offset` are the sums over all members. ProtocolViolation `sum_mismatch` when a row-count field
    is not `weight`, a slot is beyond 2 offset, or the slots after the last word are not empty: then a
    contribution is missing, doubled, masked otherwise or altered.
    """
    n_slots = slots_per_plaintext(bits)
    slot_bits = SLOT_BITS * n_slots
    all_slots = (1 << slot_bits) - 1
    if len(plaintexts) != n_plaintexts(d, bits):
        raise sum_mismatch()
    if any(plaintext >> slot_bits != weight for plaintext in plaintexts):
        raise sum_mismatch()
    data = b"".join((plaintext & all_slots).to_bytes(8 * n_slots, "little") for plaintext in plaintexts)
    slots = np.frombuffer(data, dtype="<u8")
    # A slot below the offset wraps to a negative word.
    wrapped = slots - np.uint64(offset)
    words = wrapped.astype(np.uint64, copy=False).view(np.int64)
    if not _within(words, offset) or words[d:].any():
        raise sum_mismatch()
    return words[:d].copy()


def sum_mismatch() -> ProtocolViolation:
    """The error of a sum whose check fields do not add up."""
    return ProtocolViolation(
        "The sum does not hold exactly one contribution of every member.",
        remedy="Order again; if it comes again, compare the hospitals' versions and keys.",
        code="sum_mismatch",
    )


def _within(words: NDArray[np.int64], limit: int) -> bool:
    """Whether every |word| <= limit <= 2^62 (abs would wrap at -2^63)."""
    return bool(np.all((words >= -limit) & (words <= limit)))
