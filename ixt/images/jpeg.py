"""JPEG files by their markers: size, segments, and whether a file is whole. Nothing is decoded.

Source: ITU-T T.81, annex B (markers, marker segments and the frame header).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ixt.images.byte_ranges import Bytes

START = b"\xff\xd8"
FRAMES = frozenset((0xC0, 0xC1, 0xC2))
"""Frame headers of baseline, extended sequential and progressive JPEGs."""

MAX_PIXELS = 178_956_970
"""Pixels beyond which Pillow refuses to decode: twice its MAX_IMAGE_PIXELS. A few kilobytes can
claim 30,000 x 30,000, so such a JPEG is left to Pillow by every decoder, and refused."""

_HUFFMAN, _SCAN, _END = 0xC4, 0xDA, 0xD9
_TABLES = frozenset((_HUFFMAN, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
"""Segments that may stand around scans: tables, restart interval, application data, comments."""
_PLAIN_CHANNELS = (1, 3)  # others need a conversion of their own


class Segment(NamedTuple):
    """A marker segment."""

    marker: int
    start: int
    """Where its content begins."""
    length: int
    """Bytes of the content; they may reach beyond what there is of the file."""

    @property
    def stop(self) -> int:
        """Where the next marker begins."""
        return self.start + self.length


class Frame(NamedTuple):
    """What a frame header says."""

    height: int
    width: int
    channels: int
    bits: int


def segments(data: bytes | memoryview, at: int = len(START)) -> Iterator[Segment]:
    """The segments from a place on, up to the first bytes that are none.

    Those behind a scan header are entropy-coded, so the walk ends there.
    """
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        segment = Segment(marker, at + 4, struct.unpack_from(">H", data, at + 2)[0] - 2)
        yield segment
        at = segment.stop


def read_frame(data: bytes | memoryview, segment: Segment) -> Frame | None:
    """A frame header; None where the file ends within it."""
    if segment.start + 6 > len(data):
        return None
    bits, height, width, channels = struct.unpack_from(">BHHB", data, segment.start)
    return Frame(height, width, channels, bits)


def find_frame(data: bytes | memoryview) -> Frame | None:
    """The frame of a JPEG by its header, if it has at most `MAX_PIXELS`.

    Args:
        data: the file, or its beginning.

    Returns:
        None also if no frame is found; Pillow then has to decide.
    """
    if data[: len(START)] != START:
        return None
    for segment in segments(data):
        if segment.marker in FRAMES:
            frame = read_frame(data, segment)
            return frame if frame is not None and _fits(frame) else None
        if not _HUFFMAN <= segment.marker <= 0xFE or segment.length < 0:
            return None
    return None


def whole_frame(data: Bytes) -> Frame | None:
    """The frame of an ordinary JPEG in which nothing is missing or out of place.

    Ordinary has 8 bits, one or three channels and at most `MAX_PIXELS`. A file that is cut off,
    has a segment with a wrong length or a marker within its entropy-coded data is not whole.
    Flipped bits inside that data or inside a table are not seen.

    Args:
        data: all of the file.

    Returns:
        its frame, or None; a full decoding then has to show what is wrong, if anything.
    """
    raw = data.tobytes()
    if not raw.startswith(START):
        return None
    frame: Frame | None = None
    at = len(START)
    markers: NDArray[np.intp] | None = None
    while True:
        scan = False
        for segment in segments(raw, at):
            if segment.length < 0 or segment.stop > len(raw):
                return None
            if segment.marker in FRAMES:
                if frame is not None:
                    return None
                frame = read_frame(raw, segment)
            elif segment.marker == _SCAN:
                scan, at = True, segment.stop
                break
            elif segment.marker not in _TABLES:
                return None
        if not scan or frame is None:
            return None
        if markers is None and _is_last_scan(data, at):
            return _if_ordinary(frame)
        markers = _markers(data) if markers is None else markers
        place = int(np.searchsorted(markers, at))
        if place == len(markers):
            return None
        at = int(markers[place])
        if raw[at + 1] == _END:
            return _if_ordinary(frame)


def _if_ordinary(frame: Frame) -> Frame | None:
    plain = frame.bits == 8 and frame.channels in _PLAIN_CHANNELS
    return frame if plain and frame.height and frame.width and _fits(frame) else None


def _fits(frame: Frame) -> bool:
    return frame.height * frame.width <= MAX_PIXELS


def _is_last_scan(data: Bytes, at: int) -> bool:
    """Whether the first marker from a place on ends the image, as that of most files does.

    It takes a third of the time of `_markers`, which also sees through restart markers.
    """
    marks = data[at:-1] == 0xFF
    marks &= data[at + 1 :] != 0
    if not len(marks):
        return False
    first = int(marks.argmax())
    return bool(marks[first]) and int(data[at + first + 1]) == _END


def _markers(data: Bytes) -> NDArray[np.intp]:
    """Where markers stand that can end a scan: neither stuffed bytes nor restart markers."""
    places = np.flatnonzero(data[:-1] == 0xFF)
    follow = data[places + 1]
    markers: NDArray[np.intp] = places[(follow != 0) & ((follow < 0xD0) | (follow > 0xD7))]
    return markers
