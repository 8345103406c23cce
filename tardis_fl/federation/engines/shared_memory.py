"""Large arrays from a worker process to its parent, through shared memory instead of a socket.

A socket copies each byte five times on its way; with a network of some megabytes that is a tenth of
a small training.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
import weakref
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array

# of addresses; memory only where something was written. What doesn't fit goes through the socket
HALF_BYTES = 128 * 2**20
WORTH_IT_BYTES = 64 * 2**10
SPARE_BYTES = 64 * 2**20  # of memory kept for contents to come


Place = tuple[str, tuple[int, ...], str, int, int]
"""An array without its content: type, shape, format, and where how many bytes lie."""


class SharedArrays:
    """Two halves of shared memory that one side writes in turns.

    So an answer may wait while the next one is written.

    Args:
        file_descriptor: Of the memory, as the other side has it; None: make one.
    """

    def __init__(self, file_descriptor: int | None = None) -> None:
        self.file_descriptor = _new_memory() if file_descriptor is None else file_descriptor
        self._memory = mmap.mmap(self.file_descriptor, 2 * HALF_BYTES)
        self._half = 0
        self._used = 0
        self._spare: dict[int, list[bytearray]] = {}

    def dump(self, what: object) -> bytes:
        """Pickles something; large arrays' contents stay here until the call after the next."""
        self._half = 1 - self._half
        self._used = 0
        buffer = io.BytesIO()
        _Pickler(buffer, self).dump(what)
        return buffer.getvalue()

    def load(self, pickled: bytes) -> object:
        """Unpickles what the other side's `dump` returned, with copies of the arrays' contents."""
        return _Unpickler(io.BytesIO(pickled), self).load()

    def put(self, content: bytes) -> int | None:
        """Takes a content; returns where it lies, or None where there is no room."""
        if self._used + len(content) > HALF_BYTES:
            return None
        begin = self._half * HALF_BYTES + self._used
        self._memory[begin : begin + len(content)] = content
        self._used += len(content)
        return begin

    def get(self, begin: int, length: int) -> npt.NDArray[np.uint8]:
        """Returns a copy of a content.

        Its memory is used again when nobody has it any more, since new memory takes longer to get
        than to fill. What is made of the content keeps it alive, as its memory isn't an array's:
        of arrays NumPy would keep the innermost one alone.
        """
        spare = self._spare.get(length)
        memory = spare.pop() if spare else bytearray(length)
        content = np.frombuffer(memory, np.uint8)
        content[:] = np.frombuffer(self._memory, np.uint8, length, begin)
        weakref.finalize(content, self._take_back, memory)
        return content

    def _take_back(self, memory: bytearray) -> None:
        spare_bytes = sum(length * len(spare) for length, spare in list(self._spare.items()))
        if spare_bytes + len(memory) > SPARE_BYTES:
            self._spare.clear()
        self._spare.setdefault(len(memory), []).append(memory)

    def close(self) -> None:
        """Lets go of the memory."""
        self._memory.close()
        os.close(self.file_descriptor)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: SharedArrays) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._shared = shared

    def persistent_id(self, what: object) -> Place | None:
        """Puts the content of a large array aside; returns where it lies."""
        if not isinstance(what, Array) or len(what.data) < WORTH_IT_BYTES:
            return None
        begin = self._shared.put(what.data)
        if begin is None:
            return None
        return what.dtype, tuple(what.shape), what.stype, begin, len(what.data)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: SharedArrays) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, place: object) -> Array:
        """Builds an array around a copy of its content."""
        dtype, shape, stype, begin, length = cast(Place, place)
        array = Array(dtype=dtype, shape=shape, stype=stype, data=b"")
        # can be written, so that nobody copies it again
        array.data = self._shared.get(begin, length)  # type: ignore[assignment]
        return array


def _new_memory() -> int:
    if hasattr(os, "memfd_create"):
        file_descriptor = os.memfd_create("tardis_fl")
    else:
        with tempfile.TemporaryFile() as file:
            file_descriptor = os.dup(file.fileno())
    os.ftruncate(file_descriptor, 2 * HALF_BYTES)
    return file_descriptor
