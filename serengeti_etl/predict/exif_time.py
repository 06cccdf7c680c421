"""When a photograph was taken, by its camera. Format: Exif 2.32, section 4.6."""

import datetime as dt
import struct

_ORDERS = {b"II": "<", b"MM": ">"}
_MARKER = b"Exif\0\0"
_NUM_BYTES = 1 << 16
"""Longest segment of a JPEG; and how far into a file it is looked for."""
_EXIF_DIRECTORY, _DATE_TIME_ORIGINAL = 0x8769, 0x9003
_ENTRY_NUM_BYTES = 12
_TEXT_NUM_BYTES = 19


def exif_time(photograph: bytes) -> dt.datetime | None:
    """The camera's clock at exposure, without a zone; None where the file does not tell."""
    at = photograph.find(_MARKER, 0, _NUM_BYTES)
    if at < 0:
        return None
    tiff = memoryview(photograph)[at + len(_MARKER) : at + len(_MARKER) + _NUM_BYTES]
    try:
        order = _ORDERS[bytes(tiff[:2])]
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        details = _value(tiff, order, first, _EXIF_DIRECTORY)
        start = _value(tiff, order, details, _DATE_TIME_ORIGINAL)
        text = bytes(tiff[start : start + _TEXT_NUM_BYTES]).decode("ascii")
        return dt.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - cameras know no zone
    except (KeyError, struct.error, ValueError):
        return None


def _value(tiff: memoryview, order: str, directory: int, wanted: int) -> int:
    """The value of a tag in the directory that begins there. Raises KeyError without one."""
    (num_entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    for entry in range(num_entries):
        at = directory + 2 + entry * _ENTRY_NUM_BYTES
        tag, _, _, value = struct.unpack_from(f"{order}HHII", tiff, at)
        if tag == wanted:
            return int(value)
    raise KeyError(wanted)
