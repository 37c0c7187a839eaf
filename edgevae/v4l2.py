"""What a Video4Linux device says of itself, asked with ioctls (linux/videodev2.h); nothing is streamed."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CAPTURE, _CAPTURE_MPLANE, _HAS_DEVICE_CAPS = 0x1, 0x1000, 0x80000000
_BUFFER_TYPES = {_CAPTURE: 1, _CAPTURE_MPLANE: 9}
_MOST = 256  # answers to an enumeration: a driver that never ends one must not hang the listing
_DISCRETE = 1  # of sizes and of intervals; others are ranges

# Structures in the kernel's own layout; the request number carries their size.
_CAPABILITY = struct.Struct("16s32s32sIII12x")
_FORMAT = struct.Struct("III32sII12x")
_SIZE = struct.Struct("III24s8x")
_INTERVAL = struct.Struct("IIIII24s8x")


def _request(direction: int, number: int, layout: struct.Struct) -> int:
    return direction << 30 | layout.size << 16 | ord("V") << 8 | number


_READ, _BOTH = 2, 3
_QUERYCAP = _request(_READ, 0, _CAPABILITY)
_ENUM_FMT = _request(_BOTH, 2, _FORMAT)
_ENUM_FRAMESIZES = _request(_BOTH, 74, _SIZE)
_ENUM_FRAMEINTERVALS = _request(_BOTH, 75, _INTERVAL)


@dataclass(frozen=True, slots=True)
class Mode:
    """A pixel format (fourcc) at one size, with the frame rates it comes at, fastest first.

    Of a device that takes any size or rate in a range, the largest and the ends are given.
    """

    pixels: str
    width: int
    height: int
    fps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class V4l2Camera:
    """A capture device.

    Attributes:
        device: /dev/videoN.
        by_id: its name that survives a reboot and another plug, None where udev made none.
        name, driver, bus: as the driver says.
        modes: empty where it could not be asked.
        error: why it could not be asked, else empty.
    """

    device: str
    by_id: str | None
    name: str = ""
    driver: str = ""
    bus: str = ""
    modes: tuple[Mode, ...] = ()
    error: str = ""


def cameras(dev: Path = Path("/dev")) -> list[V4l2Camera]:
    """The capture devices under ``dev``, by number; nodes that give no pictures are left out."""
    by_id: dict[str, str] = {}
    for link in sorted((dev / "v4l" / "by-id").glob("*")):
        by_id.setdefault(os.path.realpath(link), str(link))
    nodes = {node.name[5:]: os.path.realpath(node) for node in dev.glob("video*") if node.name[5:].isdigit()}
    found = (_ask(nodes[number], by_id.get(nodes[number])) for number in sorted(nodes, key=int))
    return [camera for camera in found if camera is not None]


def _ask(device: str, by_id: str | None) -> V4l2Camera | None:
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return V4l2Camera(device, by_id, error=os.strerror(error.errno or 0))
    try:
        driver, name, bus, _, all_nodes, this_node = _CAPABILITY.unpack(
            fcntl.ioctl(handle, _QUERYCAP, bytes(_CAPABILITY.size))
        )
        able = this_node if all_nodes & _HAS_DEVICE_CAPS else all_nodes
        kinds = [buffers for bit, buffers in _BUFFER_TYPES.items() if able & bit]
        if not kinds:
            return None  # metadata, output, a radio
        modes = tuple(_modes(handle, kinds[0]))
        return V4l2Camera(device, by_id, _text(name), _text(driver), _text(bus), modes)
    except OSError as error:
        return V4l2Camera(device, by_id, error=os.strerror(error.errno or 0))
    finally:
        os.close(handle)


def _modes(handle: int, buffers: int) -> Iterator[Mode]:
    for answer in _listed(handle, _ENUM_FMT, _FORMAT, (buffers, 0, b"", 0, 0)):
        pixels = _FORMAT.unpack(answer)[4]
        for size in _listed(handle, _ENUM_FRAMESIZES, _SIZE, (pixels, 0, b"")):
            _, _, kind, numbers = _SIZE.unpack(size)
            first = struct.unpack("6I", numbers)
            width, height = first[:2] if kind == _DISCRETE else (first[1], first[4])
            yield Mode(_fourcc(pixels), width, height, _rates(handle, pixels, width, height))
            if kind != _DISCRETE:
                break  # one answer describes the range


def _rates(handle: int, pixels: int, width: int, height: int) -> tuple[float, ...]:
    rates: set[float] = set()
    for answer in _listed(handle, _ENUM_FRAMEINTERVALS, _INTERVAL, (pixels, width, height, 0, b"")):
        kind, numbers = _INTERVAL.unpack(answer)[4:]
        values = struct.unpack("6I", numbers)
        for numerator, denominator in (values[:2], values[2:4])[: 1 if kind == _DISCRETE else 2]:
            if numerator:
                rates.add(round(denominator / numerator, 3))
        if kind != _DISCRETE:
            break
    return tuple(sorted(rates, reverse=True))


def _listed(handle: int, request: int, layout: struct.Struct, query: tuple[object, ...]) -> Iterator[bytes]:
    """The answers to an enumeration, whose structures all begin with the index that is asked for."""
    for index in range(_MOST):
        try:
            yield fcntl.ioctl(handle, request, layout.pack(index, *query))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # past the last; or it lists nothing of the kind
                return
            raise


def _fourcc(pixels: int) -> str:
    return _text(struct.pack("<I", pixels & 0x7FFFFFFF))  # the top bit says big-endian


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace").strip()
