"""The CRC-32C checksum (Castagnoli, RFC 3720) that TensorFlow stores beside every tensor."""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78
MASK_DELTA = 0xA282EAD8
LANES = 2048


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C of some bytes.

    Long inputs are cut into equal lanes that NumPy advances together; a checksum is linear, so that the
    states of the lanes can be joined afterwards.
    """
    values = np.frombuffer(data, dtype=np.uint8)
    steps = len(values) // LANES
    state = 0xFFFFFFFF
    if steps >= 16:
        for lane in _lanes(values[: steps * LANES].reshape(LANES, steps)):
            state = _skip(state, steps) ^ int(lane)
        values = values[steps * LANES :]
    table = _table().tolist()
    for byte in values.tolist():
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as it is stored: rotated and shifted, so that a file may hold checksums of itself."""
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


def _lanes(lanes: np.ndarray) -> np.ndarray:
    """Run each row from state 0."""
    table, state = _table(), np.zeros(len(lanes), np.uint32)
    for column in np.ascontiguousarray(lanes.T):
        state = table[(state ^ column) & 0xFF] ^ (state >> np.uint32(8))
    return state


def _skip(state: int, steps: int) -> int:
    """Advance a state over `steps` zero bytes."""
    result = 0
    for bit, moved in enumerate(_basis(steps)):
        if state >> bit & 1:
            result ^= moved
    return result


@functools.lru_cache(maxsize=256)
def _basis(steps: int) -> tuple[int, ...]:
    """Where each of the 32 bits of a state goes over `steps` zero bytes."""
    state = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    table = _table()
    for _ in range(steps):
        state = table[state & 0xFF] ^ (state >> np.uint32(8))
    return tuple(state.tolist())
