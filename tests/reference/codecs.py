"""The slow, obvious forms of what codecs do, one sample at a time."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch
import zstandard

from tardis_fl.codecs.wire import ZLIB_LEVEL, ZSTD_LEVEL


def packed(codes, bits):
    """All codes as one long number, its lowest bits first."""
    number = sum(int(code) << (bits * position) for position, code in enumerate(codes))
    return number.to_bytes(-(-len(codes) * bits // 8), "little")


def send(sample, codec):
    """Returns one sample's message, and what arrives of it."""
    quantiser, _, compressor = codec.partition("+")
    values = sample.contiguous().numpy()
    if quantiser in ("float32", "float16"):
        header, payload = b"", values.astype(quantiser).tobytes()
        arrives = values.astype(quantiser).astype(np.float32)
    else:
        bits = 8 if quantiser == "uint8" else int(quantiser[0])
        low, high = values.min(), values.max()
        scale = max(
            np.float32((float(high) - float(low)) / (2**bits - 1)), np.finfo(np.float32).tiny
        )
        codes = np.clip(np.round((values - low) / scale), 0, 2**bits - 1).astype(np.uint8)
        header, payload = struct.pack("<ff", low, scale), packed(codes.ravel(), bits)
        arrives = codes.astype(np.float32) * scale + low
    if compressor == "zlib":
        payload = zlib.compress(payload, ZLIB_LEVEL)
    elif compressor == "zstd":
        payload = zstandard.compress(payload, ZSTD_LEVEL)
    return header + payload, torch.from_numpy(arrives)


def deployed_with(network, images, labels, codec, thresholds):
    """Sends one sample at a time through all segments; it is answered where the largest softmax probability reaches the threshold.

    Returns right answers of each exit, right answers where deployed, samples each exit answers, and
    for each boundary the bytes of those that cross it.
    """
    num_exits = len(network)
    right, answered_right, exit_counts, crossing = (
        [0] * num_exits,
        0,
        [0] * num_exits,
        [[] for _ in range(num_exits - 1)],
    )
    for image, label in zip(images, labels, strict=True):
        x, answer = image[None], None
        for number, segment in enumerate(network):
            with torch.no_grad():
                x, logits = segment(x)
            right[number] += int(logits.argmax() == label)
            last = number == num_exits - 1
            if answer is None and (last or logits.softmax(1).max() >= thresholds[number]):
                answer = number
                exit_counts[number] += 1
                answered_right += int(logits.argmax() == label)
            if not last:
                message, arrived = send(x[0], codec)
                if answer is None:
                    crossing[number].append(len(message))
                x = arrived[None]
    return right, answered_right, exit_counts, crossing
