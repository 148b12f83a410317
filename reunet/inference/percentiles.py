"""Percentiles of more values than fit in memory: exact, in one to four passes over them.

As in a radix sort, 16 bits of the sought values are found in a pass: of the values that begin with
the bits known so far, the next bits are counted, and the counts tell where the wanted ranks lie.
"""

from collections.abc import Sequence

import numpy as np

DIGIT = 16  # bits found in a pass: counts that stay in a processor's cache


class PercentileSearch:
    """Percentiles of values of one dtype, which come in pieces and as often as needed.

    search = PercentileSearch(dtype, (1, 99))
    while search.unknown:
        for piece in pieces:
            search.count(piece)
        search.refine()
    """

    def __init__(self, dtype: np.dtype, percentiles: Sequence[float]) -> None:
        """dtype: integers or floats of up to 64 bits, in this machine's byte order."""
        self.dtype = dtype
        self.unknown = 8 * dtype.itemsize  # bits of the sought values that are not known yet
        self._digit = min(DIGIT, self.unknown)
        self._shares = np.divide(percentiles, 100)
        self._fractions = np.zeros(len(percentiles))  # where they lie between their two neighbours
        self._sought: list[tuple[int, int]] = []  # bits known, rank among the values that have them
        self._counts = {0: np.zeros(2**self._digit, np.int64)}  # bits known -> by the next bits

    def count(self, values: np.ndarray) -> None:
        """Take in a piece. values: one axis, contiguous, finite."""
        keys = _ordered(values)
        for known, counts in self._counts.items():
            those = keys[keys >> self.unknown == known] if self._begun else keys
            digits = those >> (self.unknown - self._digit) & (2**self._digit - 1)
            counts += np.bincount(digits.astype(np.intp, copy=False), minlength=counts.size)

    def refine(self) -> None:
        """All pieces have been counted: find the next bits."""
        if not self._begun:
            self._sought = self._neighbours(int(self._counts[0].sum()))
        refined = []
        for known, rank in self._sought:
            below = np.cumsum(self._counts[known])  # values up to and with these next bits
            bits = int(np.searchsorted(below, rank, side="right"))
            rank -= int(below[bits - 1]) if bits else 0
            refined.append((known << self._digit | bits, rank))
        self._sought = refined
        self._counts = {known: np.zeros(2**self._digit, np.int64) for known, _ in refined}
        self.unknown -= self._digit

    def values(self) -> list[float] | None:
        """The percentiles, linear between neighbours as `np.percentile` of float64. None: no value.

        To be asked for when no bits are unknown.
        """
        if not self._sought:
            return None
        keys = np.array([key for key, _ in self._sought], f"u{self.dtype.itemsize}")
        # Python's numbers: the difference of two int16 need not be one.
        values = _unordered(keys, self.dtype).tolist()
        triples = zip(values[::2], values[1::2], self._fractions.tolist(), strict=True)
        return [_between(*triple) for triple in triples]

    @property
    def _begun(self) -> bool:
        return self.unknown < 8 * self.dtype.itemsize

    def _neighbours(self, count: int) -> list[tuple[int, int]]:
        """The ranks below and above every percentile of so many values."""
        if count == 0:
            return []
        places = (count - 1) * self._shares
        ranks = np.floor(places).astype(int)
        self._fractions = places - ranks
        return [(0, min(int(rank) + n, count - 1)) for rank in ranks for n in (0, 1)]


def _between(below: float, above: float, fraction: float) -> float:
    # NumPy starts from the nearer one, too.
    if fraction < 0.5:
        return below + (above - below) * fraction
    return above - (above - below) * (1 - fraction)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Unsigned integers in the order of the values."""
    bits: np.ndarray = values.view(f"u{values.dtype.itemsize}")
    if values.dtype.kind == "u":
        return bits
    sign = bits.dtype.type(1 << 8 * bits.dtype.itemsize - 1)
    flipped: np.ndarray = bits ^ sign
    if values.dtype.kind == "i":
        return flipped
    return np.where(bits < sign, flipped, ~bits)  # IEEE 754: sign and magnitude


def _unordered(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values of `_ordered` integers."""
    if dtype.kind == "u":
        return keys
    sign = keys.dtype.type(1 << 8 * keys.dtype.itemsize - 1)
    bits: np.ndarray = (
        keys ^ sign if dtype.kind == "i" else np.where(keys < sign, ~keys, keys ^ sign)
    )
    return bits.view(dtype)
