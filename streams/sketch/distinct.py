"""Number of distinct values: HyperLogLog registers, in the bytes of Apache DataSketches, and Ertl's estimate of them.

Both are a function of the set of values, so a live run and a replay of the same events agree to the last digit.
(DataSketches' own estimate, by its HIP accumulator, depends on the order in which values came.) The estimator is Ertl,
"New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6. Its relative standard error is
1.04 / sqrt(2**11) = 2.3 %.

A value's coupon is the low 26 bits of one half of its MurmurHash3 (the address, whose low 11 bits are the register),
and above them the leading zeros of the other half plus one. Up to 192 coupons are kept as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
from mmh3 import mmh3_x64_128_digest, mmh3_x64_128_utupledigest
from numpy.typing import NDArray

from streams.errors import SketchError

LG_K = 11
RELATIVE_ERROR = 1.04 / 2 ** (LG_K / 2)
_K = 1 << LG_K
_Q = 62
"""Registers hold 0 to q + 1: the address and the leading zeros are of different halves of a hash."""
_SEED = 9001
"""DataSketches' own."""
_ADDRESS_BITS = 26
_ADDRESS = (1 << _ADDRESS_BITS) - 1
MAX_COUPONS = 192
_FEW = 64
"""Texts that are hashed one by one; more of them in one pass."""
_MODE_BYTE, _REGISTERS_AT = 7, 40
_LIST_MODE, _SET_MODE, _HLL_MODE = 0, 1, 2
_HEADER = bytes((1, 7, LG_K))
"""Serial version, family and lg k, from byte 1 on."""
_HLL_8_TYPE = 2
_EMPTY_FLAG, _COMPACT_FLAG, _OUT_OF_ORDER_FLAG = 4, 8, 16
_LIST_COUPONS = 8
"""So many, and they are a set."""
_EMPTY_TEXT = "\0empty"
"""Counted in place of the empty text, which DataSketches leaves out."""

_Registers = NDArray[np.uint8]


class Distinct:
    """Distinct texts. Sparse (a set of coupons) until 192, then 2,048 registers."""

    __slots__ = ("_coupons", "_registers")

    def __init__(self, coupons: Iterable[int] = (), registers: _Registers | None = None) -> None:
        self._coupons = set(coupons)
        self._registers = registers
        """Of all that was counted; None as long as the coupons are kept, which they then are not."""
        if registers is None and len(self._coupons) > MAX_COUPONS:
            self._registers, self._coupons = _raised(self._coupons), set()

    def update(self, values: Iterable[str]) -> None:
        """Counts texts; each counts once, however often it comes."""
        texts = set(values)
        if "" in texts:
            texts = texts - {""} | {_EMPTY_TEXT}
        coupons = map(_coupon, texts) if len(texts) <= _FEW else _coupons(texts).tolist()
        if self._registers is not None:
            self._registers = np.maximum(self._registers, _raised(set(coupons)))
            return
        self._coupons.update(coupons)
        if len(self._coupons) > MAX_COUPONS:
            self._registers, self._coupons = _raised(self._coupons), set()

    def estimate(self) -> float:
        """The number of distinct texts: the expected one for so many coupons, or of registers like these."""
        if self._registers is None:
            count = len(self._coupons)
            return count + count * (count - 1) / (6 << _ADDRESS_BITS)  # pairs, and the chance that they are one coupon
        return _ertl(np.bincount(self._registers, minlength=_Q + 2))

    def merged(self, other: Distinct) -> Distinct:
        if self._registers is None and other._registers is None:
            return Distinct(self._coupons | other._coupons)
        return Distinct(registers=np.maximum(self._dense(), other._dense()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distinct) and self.estimate() == other.estimate()

    __hash__ = None  # type: ignore[assignment]

    def _dense(self) -> _Registers:
        return _raised(self._coupons) if self._registers is None else self._registers

    def to_bytes(self) -> bytes:
        """The bytes of a compact HLL_8 sketch of Apache DataSketches."""
        if self._registers is not None:
            return _register_bytes(self._registers)
        count = len(self._coupons)
        coupons = np.array(sorted(self._coupons), "<u4").tobytes()
        if count < _LIST_COUPONS:
            flags = _COMPACT_FLAG | (0 if count else _EMPTY_FLAG)
            return bytes((2, *_HEADER, 3, flags, count, _LIST_MODE | _HLL_8_TYPE << 2)) + coupons
        lg_array = next(lg for lg in range(5, LG_K) if 4 * count <= 3 << lg)
        head = bytes((3, *_HEADER, lg_array, _COMPACT_FLAG, 0, _SET_MODE | _HLL_8_TYPE << 2))
        return head + struct.pack("<I", count) + coupons

    @classmethod
    def from_bytes(cls, data: bytes) -> Distinct:
        if not _is_sound(data):
            raise SketchError(seen="a distinct sketch with an unsound header", expected="HLL bytes of this version")
        mode = data[_MODE_BYTE] & 3
        if mode == _HLL_MODE:
            return cls(registers=np.frombuffer(data, np.uint8, offset=_REGISTERS_AT))
        return cls(np.frombuffer(data, "<u4", offset=12 if mode == _SET_MODE else 8).tolist())


def _coupon(text: str) -> int:
    address, zeros = mmh3_x64_128_utupledigest(text.encode(), _SEED)
    return min(65 - zeros.bit_length(), _Q + 1) << _ADDRESS_BITS | address & _ADDRESS


def _coupons(texts: Iterable[str]) -> NDArray[np.int64]:
    """The same of many."""
    digests = b"".join([mmh3_x64_128_digest(text.encode(), _SEED) for text in texts])
    hashes = np.frombuffer(digests, "<u8").reshape(-1, 2)
    high, low = hashes[:, 1] >> 32, hashes[:, 1] & 0xFFFF_FFFF
    # a double holds 32 bits exactly, and its exponent says how long they are
    lengths = np.where(high > 0, np.frexp(high.astype(np.float64))[1] + 32, np.frexp(low.astype(np.float64))[1])
    values = np.minimum(65 - lengths.astype(np.int64), _Q + 1)
    return values << _ADDRESS_BITS | (hashes[:, 0] & _ADDRESS).astype(np.int64)


def _raised(coupons: set[int]) -> _Registers:
    """Registers of nothing but these."""
    found = np.fromiter(coupons, np.int64, len(coupons))
    registers = np.zeros(_K, np.uint8)
    np.maximum.at(registers, found & (_K - 1), (found >> _ADDRESS_BITS).astype(np.uint8))
    return registers


def _register_bytes(registers: _Registers) -> bytes:
    """What DataSketches keeps beside them: no HIP estimate, sums of 2**-value below and from 32 on, empty registers."""
    shares = np.ldexp(1.0, -registers.astype(np.int32))
    sums = (float(shares[registers < 32].sum()), float(shares[registers >= 32].sum()))
    flags = _COMPACT_FLAG | _OUT_OF_ORDER_FLAG
    head = bytes((10, *_HEADER, 0, flags, 0, _HLL_MODE | _HLL_8_TYPE << 2))
    return head + struct.pack("<3d2I", 0.0, *sums, int((registers == 0).sum()), 0) + registers.tobytes()


def _is_sound(data: bytes) -> bool:
    """Whether the header fits the bytes, and these can be of a sketch."""
    if len(data) < 8 or data[1:4] != _HEADER or data[5] & ~(_EMPTY_FLAG | _OUT_OF_ORDER_FLAG) != _COMPACT_FLAG:
        return False
    preamble, lg_array, count, mode = data[0], data[4], data[6], data[_MODE_BYTE]
    is_empty = mode & 3 == _LIST_MODE and count == 0
    if mode >> 2 != _HLL_8_TYPE or bool(data[5] & _EMPTY_FLAG) != is_empty:
        return False
    if mode & 3 == _HLL_MODE:
        return (preamble, count, len(data)) == (10, 0, _REGISTERS_AT + _K) and max(data[_REGISTERS_AT:]) <= _Q + 1
    if mode & 3 == _LIST_MODE:
        return (preamble, lg_array) == (2, 3) and count < _LIST_COUPONS and _are_coupons(data[8:], count)
    if mode & 3 != _SET_MODE or len(data) < 12:
        return False
    (many,) = struct.unpack_from("<I", data, 8)
    return preamble == 3 and 5 <= lg_array <= LG_K - 3 and 4 * many <= 3 << lg_array and _are_coupons(data[12:], many)


def _are_coupons(data: bytes, count: int) -> bool:
    """Whether they are so many hashes: six bits of leading zeros, never 0, and an address."""
    return len(data) == 4 * count and bool((np.frombuffer(data, "<u4") >> 26 > 0).all())


def _ertl(histogram: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Ertl's improved estimate from the number of registers at each value (length q + 2)."""
    z = _K * _tau(1 - histogram[_Q + 1] / _K)
    for count in histogram[_Q:0:-1]:
        z = 0.5 * (z + float(count))
    z += _K * _sigma(histogram[0] / _K)
    return float(_K / (2 * np.log(2)) * _K / z) if np.isfinite(z) else 0.0


def _sigma(x: float) -> float:
    if x == 1.0:
        return float("inf")
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before = x**0.5, z
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3
