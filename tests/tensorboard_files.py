"""Reads TensorBoard's files."""

from __future__ import annotations

import struct
from pathlib import Path


def tensorboard_values(path: Path) -> dict[tuple[str, int], float]:
    """What one file holds: name and step to value."""
    from tensorboardX.proto import event_pb2

    found, data, start = {}, path.read_bytes(), 0
    while start < len(data):  # length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", data, start)
        event = event_pb2.Event.FromString(data[start + 12 : start + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        start += length + 16
    return found
