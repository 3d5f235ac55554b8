"""Paillier made cheap: obfuscators from a table, powers in threads.

    c = (1 + n m) h^x mod n^2            Damgard, Jurik and Nielsen 2010, section 4.2
    Dec(c_1 c_2 mod n^2) = m_1 + m_2 mod n

The keys are phe's own classes, and phe's `raw_decrypt` reads every ciphertext; only the
making of keys and of obfuscators differs. phe's floats are not used: they send their
exponent in clear.

Keys, obfuscators and encryption, in this order. `packing` makes a plaintext of many
values, and `secure_sum` puts both together (decision 8).

Decision 3.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import NoReturn, TypeVar

import gmpy2
import numpy as np
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from protocol.errors import BadRequest, ProtocolViolation
from protocol.sums import KEY_LENGTHS

THREADS = 2

# Of the comb (`_Comb`): rows of an exponent's bits, and tables of their columns.
TEETH = 8
TABLES = 16

RandomBytes = Callable[[int], bytes]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


# Keys


def generate_keys(
    key_bits: int,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> PaillierPrivateKey:
    """A key pair with p = q = 3 mod 4, gcd(p - 1, q - 1) = 2 and n of exactly
    `key_bits` bits.

    The initiator runs it once per order; the public half is `.public_key`. The
    conditions make -y^2 a generator of the group that obfuscators come from (Damgard,
    Jurik and Nielsen 2010). `random_bytes(k)` gives k unpredictable bytes. BadRequest
    `key_length` unless key_bits is 2048, 3072 or 4096.
    """
    _check_length(key_bits)
    return _generate_keys(key_bits, random_bytes)


def public_to_bytes(public: PaillierPublicKey) -> bytes:
    """n, big-endian, in exactly key_bits / 8 bytes.

    The initiator sends it to all parties.
    """
    n = int(public.n)
    n_bytes = key_bits(public) // 8
    return n.to_bytes(n_bytes, "big")


def public_from_bytes(data: bytes) -> PaillierPublicKey:
    """Inverse of `public_to_bytes`, at every party.

    ProtocolViolation when it is no modulus of an allowed length.
    """
    n = int.from_bytes(data, "big")
    n_bits = 8 * len(data)
    is_full = n.bit_length() == n_bits
    # n = 1 mod 4 is what two primes = 3 mod 4 give.
    is_product = n % 4 == 1
    if n_bits not in KEY_LENGTHS or not is_full or not is_product:
        raise ProtocolViolation(
            "The public key is not a modulus of an allowed length.",
            remedy="Order again.",
        )
    return PaillierPublicKey(n)


def private_to_bytes(private: PaillierPrivateKey) -> bytes:
    """p | q, big-endian, key_bits / 16 bytes each.

    For the initiator's own vault only: secret.
    """
    n_bytes = key_bits(private.public_key) // 16
    p = int(private.p).to_bytes(n_bytes, "big")
    q = int(private.q).to_bytes(n_bytes, "big")
    return p + q


def private_from_bytes(data: bytes) -> PaillierPrivateKey:
    """Inverse of `private_to_bytes`, at the initiator.

    ProtocolViolation when the bytes are not such a key.
    """
    half_length = len(data) // 2
    p_bytes = data[:half_length]
    q_bytes = data[half_length:]
    p = int.from_bytes(p_bytes, "big")
    q = int.from_bytes(q_bytes, "big")
    n_bits = 8 * len(data)
    if n_bits not in KEY_LENGTHS or not _are_key_primes(p, q, bits=n_bits):
        raise ProtocolViolation(
            "The private key in the vault is damaged.",
            remedy="Restore the vault or order again.",
        )
    return _private_key(p, q)


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
    """`generate_keys` for any multiple of 16 bits: tests use shorter keys."""
    p = q = 0
    while not _are_key_primes(p, q, bits=bits):
        p = _prime(bits // 2, random_bytes)
        q = _prime(bits // 2, random_bytes)
    return _private_key(p, q)


def _private_key(p: int, q: int) -> PaillierPrivateKey:
    public = PaillierPublicKey(p * q)
    return PaillierPrivateKey(public, p, q)


def _prime(bits: int, random_bytes: RandomBytes) -> int:
    """A prime = 3 mod 4 with its two highest bits set.

    So the product of two has all its bits.
    """
    two_highest_bits = 3 << (bits - 2)
    while True:
        drawn_bytes = random_bytes(bits // 8)
        random_number = int.from_bytes(drawn_bytes, "big")
        search_start = random_number | two_highest_bits
        prime = int(gmpy2.next_prime(search_start))
        has_length = prime.bit_length() == bits
        if prime % 4 == 3 and has_length:
            return prime


def _are_key_primes(
    p: int,
    q: int,
    *,
    bits: int,
) -> bool:
    """Whether p and q are what `generate_keys` promises."""
    n = p * q
    if n.bit_length() != bits:
        return False
    if p % 4 != 3 or q % 4 != 3:
        return False
    # Too near each other, n would be factored by Fermat.
    least_bits = bits // 2 - 100
    distance = abs(p - q)
    if p == q or distance.bit_length() <= least_bits:
        return False
    if gmpy2.gcd(p - 1, q - 1) != 2:
        return False
    n_rounds = 40  # of Miller and Rabin: a composite passes one by 1/4 at most
    is_p_prime = gmpy2.is_prime(p, n_rounds)
    return bool(is_p_prime and gmpy2.is_prime(q, n_rounds))


# Obfuscators


class Obfuscators:
    """A stock of obfuscators h^x mod n^2, h = (-y^2)^n, one for each ciphertext of one
    hospital.

    A hospital runs it, with its own y and with x of half the key's bits, as the paper
    asks; shorter exponents would be faster and rest on nothing. They live in memory
    only. Two ciphertexts with the same obfuscator show the difference of their
    plaintexts to everybody, so each is removed before it is used, and a stock that a
    fork or a copy has doubled is refused: make it after the fork.
    """

    def __init__(
        self,
        public: PaillierPublicKey,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
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
        """Fill the stock up to `count`, in idle time.

        On THREADS threads without the GIL. ProtocolViolation `forked_obfuscators` in
        another process than the one that made this object.
        """
        self._check_process()
        with self._lock:
            self._fill(count)

    def take(self) -> int:
        """One obfuscator that nobody else will get.

        Made on the spot when the stock is empty. Errors: `prepare`.
        """
        (obfuscator,) = self.take_many(1)
        return obfuscator

    def take_many(self, count: int) -> list[int]:
        """`count` obfuscators, as `take`; what is missing in the stock is made in
        threads.
        """
        self._check_process()
        with self._lock:
            self._fill(count)
            # Out of the stock before anybody uses them: an error in between loses some
            # and doubles none.
            obfuscators = self._stock[:count]
            self._stock = self._stock[count:]
            return obfuscators

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Obfuscators are neither pickled nor copied: a copy would use each of them twice."
        )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ProtocolViolation(
                "These obfuscators were made in another process.",
                remedy="Make them after the fork.",
                code="forked_obfuscators",
            )

    def _fill(self, count: int) -> None:
        """Up to `count` obfuscators; the randomness is drawn in this thread, in order."""
        n_missing = count - len(self._stock)
        if n_missing <= 0:
            return
        exponents = []
        for _ in range(n_missing):
            exponent = self._random_bytes(self._exponent_bytes)
            exponents.append(exponent)
        obfuscators = _in_threads(self._comb.power, exponents)
        self._stock.extend(obfuscators)

    @cached_property
    def _comb(self) -> _Comb:
        return _Comb(
            self._base,
            self._modulus,
            n_bytes=self._exponent_bytes,
        )

    @property
    def _exponent_bytes(self) -> int:
        """Half the key's bits (Damgard, Jurik and Nielsen 2010, section 4.2)."""
        return key_bits(self.public) // 16


def _draw_base(public: PaillierPublicKey, random_bytes: RandomBytes) -> gmpy2.mpz:
    """h = (-y^2)^n mod n^2 for y uniform in the units modulo n."""
    n = gmpy2.mpz(public.n)
    # 128 bits more than n has, so that y is within 2^-128 of uniform.
    n_bytes = key_bits(public) // 8 + 16
    y = gmpy2.mpz(0)
    while gmpy2.gcd(y, n) != 1:
        drawn_bytes = random_bytes(n_bytes)
        random_number = int.from_bytes(drawn_bytes, "big")
        y = gmpy2.mpz(random_number) % n
    minus_square = -(y * y) % n
    modulus = n * n
    return gmpy2.powmod(minus_square, n, modulus)


class _Comb:
    """Powers of one base by the comb of Lim and Lee (CRYPTO '94).

    At 2048 bits 16 tables of 256 powers, 2 MB. The exponent's bits lie in TEETH rows; a
    column of them is a digit, and each table holds the powers of all digits at the
    first of its own columns. The tables cost 4,000 products and 1,900 squarings, a
    power of 1024 bits 128 and 7.
    """

    def __init__(
        self,
        base: gmpy2.mpz,
        modulus: gmpy2.mpz,
        *,
        n_bytes: int,
    ) -> None:
        self._modulus = modulus
        self._n_columns = 8 * n_bytes // TEETH
        self._width = math.ceil(self._n_columns / TABLES)  # columns of one table
        # The tooth of row t is base^(2^(n_columns t)).
        to_next_row = 1 << self._n_columns
        teeth = [base]
        while len(teeth) < TEETH:
            last_tooth = teeth[-1]
            tooth = gmpy2.powmod(last_tooth, to_next_row, modulus)
            teeth.append(tooth)
        starts_by_tooth = _in_threads(self._starts, teeth)
        by_table = zip(*starts_by_tooth, strict=True)
        teeth_by_table = list(by_table)
        self._tables = _in_threads(self._table, teeth_by_table)

    def power(self, exponent: bytes) -> int:
        """base^x modulo the modulus, x little-endian."""
        octets = np.frombuffer(exponent, np.uint8)
        bits = np.unpackbits(octets, bitorder="little")
        rows = bits.reshape(TEETH, self._n_columns)
        (column_digits,) = np.packbits(
            rows,
            axis=0,
            bitorder="little",
        )
        digits = column_digits.tolist()
        power = gmpy2.mpz(1)
        # As square and multiply, from the highest column of each table down: all tables
        # share the squarings.
        columns = range(self._width)
        for column in reversed(columns):
            power = power * power % self._modulus
            digits_by_table = digits[column :: self._width]
            of_all_tables = zip(self._tables, digits_by_table, strict=False)
            for table, digit in of_all_tables:
                factor = table[digit]
                power = power * factor % self._modulus
        return int(power)

    def _starts(self, tooth: gmpy2.mpz) -> list[gmpy2.mpz]:
        """The tooth at the first column of each table."""
        to_next_table = 1 << self._width
        starts = [tooth]
        while len(starts) * self._width < self._n_columns:
            last_start = starts[-1]
            start = gmpy2.powmod(last_start, to_next_table, self._modulus)
            starts.append(start)
        return starts

    def _table(self, teeth: Sequence[gmpy2.mpz]) -> list[gmpy2.mpz]:
        """The product of the teeth that each digit's bits name."""
        products = [gmpy2.mpz(1)]
        for tooth in teeth:
            # Digits with this bit follow those without it, in the same order.
            with_tooth = []
            for product in products:
                longer = product * tooth % self._modulus
                with_tooth.append(longer)
            products += with_tooth
        return products


def _in_threads(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
) -> list[_Result]:
    """[function(item) for item in items] on THREADS threads, without the GIL."""

    def run(chunk: Sequence[_Item]) -> list[_Result]:
        # The flag belongs to the thread's own gmpy2 context: set outside, it does
        # nothing and the threads take turns.
        current = gmpy2.get_context()
        with gmpy2.context(current, allow_release_gil=True):
            return [function(item) for item in chunk]

    if len(items) < THREADS:
        return [function(item) for item in items]
    n_items = len(items)
    chunk_size = math.ceil(n_items / THREADS)
    chunks = []
    for start in range(0, n_items, chunk_size):
        end = start + chunk_size
        chunks.append(items[start:end])
    results: list[_Result] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for chunk_results in pool.map(run, chunks):
            results += chunk_results
    return results


# Encryption


def encrypt(
    public: PaillierPublicKey,
    plaintexts: Sequence[int],
    obfuscators: Obfuscators,
) -> list[int]:
    """c = (1 + n m) * obfuscator mod n^2 for each m in [0, n). A hospital runs it.

    Each ciphertext uses up one obfuscator. ProtocolViolation when a plaintext is out of
    range or the obfuscators belong to another key; `forked_obfuscators` as in
    `Obfuscators.prepare`.
    """
    _check_range(plaintexts, low=0, high=public.n)
    if obfuscators.public != public:
        raise ProtocolViolation(
            "The obfuscators belong to another key.",
            remedy="Make them for this order's key.",
        )
    n = gmpy2.mpz(public.n)
    modulus = gmpy2.mpz(public.nsquare)
    taken = obfuscators.take_many(len(plaintexts))
    ciphertexts = []
    for plaintext, obfuscator in zip(plaintexts, taken, strict=True):
        # g = 1 + n, so g^m = 1 + n m mod n^2 and costs no power (Damgard, Jurik and
        # Nielsen 2010).
        power_of_g = 1 + n * plaintext
        ciphertext = power_of_g * obfuscator % modulus
        ciphertexts.append(int(ciphertext))
    return ciphertexts


def add(public: PaillierPublicKey, contributions: Sequence[Sequence[int]]) -> list[int]:
    """Element by element the product of ciphertexts modulo n^2: one of the sum.

    The coordinator runs it. `contributions` are K >= 1 lists of equal length,
    ciphertexts in (0, n^2). ProtocolViolation when the lengths differ or a ciphertext
    is out of range.
    """
    lengths = {len(contribution) for contribution in contributions}
    if len(lengths) != 1:
        raise ProtocolViolation(
            "The contributions differ in length.",
            remedy="Order again with equal models.",
        )
    for contribution in contributions:
        _check_range(contribution, low=1, high=public.nsquare)
    modulus = gmpy2.mpz(public.nsquare)
    columns = zip(*contributions, strict=True)
    return [_product(column, modulus) for column in columns]


def decrypt(private: PaillierPrivateKey, ciphertexts: Sequence[int]) -> list[int]:
    """The plaintexts in [0, n), by phe's own `raw_decrypt` (CRT) on THREADS threads.

    The initiator runs it. Ciphertexts are in (0, n^2), otherwise ProtocolViolation.
    """
    modulus = private.public_key.nsquare
    _check_range(ciphertexts, low=1, high=modulus)
    # phe takes Python's own integers only.
    numbers = [int(ciphertext) for ciphertext in ciphertexts]
    return _in_threads(private.raw_decrypt, numbers)


def _product(factors: Iterable[int], modulus: gmpy2.mpz) -> int:
    product = gmpy2.mpz(1)
    for factor in factors:
        product = product * factor % modulus
    return int(product)


def _check_range(
    numbers: Iterable[int],
    *,
    low: int,
    high: int,
) -> None:
    if not all(low <= number < high for number in numbers):
        raise ProtocolViolation(
            "A number is out of the key's range.",
            remedy="Use the key of this order.",
        )
