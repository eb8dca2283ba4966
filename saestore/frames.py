"""What the header of a compressed chunk claims, before a codec allocates it."""

from __future__ import annotations

_ZSTD = b"\x28\xb5\x2f\xfd"


def zstd_size(frame: bytes) -> int | None:
    """The size that a frame of zstd claims; None where it claims none, or is something else.

    See RFC 8878, 3.1.1.1; the header has 18 bytes at most.
    """
    if frame[:4] != _ZSTD or len(frame) < 6:
        return None
    flags = frame[4]
    single = bool(flags & 0x20)
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    length = (1 if single else 0, 2, 4, 8)[flags >> 6]
    return int.from_bytes(frame[start : start + length], "little") + (256 if length == 2 else 0) if length else None
