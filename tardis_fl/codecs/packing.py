"""Codes of a few bits in bytes without gaps: eight codes of b bits are b bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LANES = 8  # codes in a group


def packed_bytes(num_values: int, bits: int) -> int:
    """Returns the bytes that codes of so many bits take; the last byte is filled up with zeros."""
    return -(-num_values * bits // 8)


def pack(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Packs rows of codes, the first code in the lowest bits.

    Args:
        codes: (N, values), each below 2^bits.
        bits: 1 to 8.

    Returns:
        (N, ceil(values * bits / 8)) uint8.
    """
    if bits == 8:
        return codes
    num_rows, num_values = codes.shape
    num_groups = -(-num_values // LANES)
    padded = np.zeros((num_rows, num_groups * LANES), np.uint8)
    padded[:, :num_values] = codes
    grouped = padded.reshape(num_rows, num_groups, LANES)
    words = np.zeros((num_rows, num_groups), "<u8")
    for lane in range(LANES):
        words |= grouped[:, :, lane].astype("<u8") << np.uint64(bits * lane)
    used = words.view(np.uint8).reshape(num_rows, num_groups, 8)[:, :, :bits]
    return used.reshape(num_rows, num_groups * bits)[:, : packed_bytes(num_values, bits)]


def unpack(packed: npt.NDArray[np.uint8], bits: int, num_values: int) -> npt.NDArray[np.uint8]:
    """Undoes `pack`: gives back (N, num_values) codes."""
    if bits == 8:
        return packed
    num_rows = len(packed)
    num_groups = -(-num_values // LANES)
    padded = np.zeros((num_rows, num_groups * bits), np.uint8)
    padded[:, : packed.shape[1]] = packed
    spread = np.zeros((num_rows, num_groups, 8), np.uint8)
    spread[:, :, :bits] = padded.reshape(num_rows, num_groups, bits)
    words = spread.reshape(num_rows, num_groups * 8).view("<u8")
    codes = np.empty((num_rows, num_groups, LANES), np.uint8)
    for lane in range(LANES):
        codes[:, :, lane] = (words >> np.uint64(bits * lane)) & np.uint64(2**bits - 1)
    return codes.reshape(num_rows, num_groups * LANES)[:, :num_values]
