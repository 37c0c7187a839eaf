"""``edgevae cameras``: what is connected, the modes and intrinsics it has, and the URI to pass."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

from . import v4l2
from .errors import SourceError

FORMAT_VERSION = 1
DEV = Path("/dev")
USB = Path("/sys/bus/usb/devices")


def find_cameras() -> dict[str, Any]:
    """The cameras of this machine, as the document that ``--json`` prints.

    ``realsense`` and ``v4l2`` list devices, each with the URI for ``--camera``; ``realsense_problem`` and
    each device's ``problem`` say in a sentence why something could not be asked, else they are null.
    """
    realsense, problem = find_realsense()
    return {
        "format_version": FORMAT_VERSION,
        "realsense": realsense,
        "realsense_problem": problem,
        "v4l2": [_v4l2(camera) for camera in v4l2.cameras(DEV)],
    }


def _v4l2(camera: v4l2.V4l2Camera) -> dict[str, Any]:
    problem = camera.error or None
    if camera.error == os.strerror(errno.EACCES):
        problem = f"{camera.error}: run 'sudo usermod -aG video $USER' and log in again"
    return {
        "camera": camera.by_id or camera.device,
        "device": camera.device,
        "by_id": camera.by_id,
        "name": camera.name,
        "driver": camera.driver,
        "bus": camera.bus,
        "modes": [dataclasses.asdict(mode) for mode in camera.modes],
        "problem": problem,
    }


def find_realsense() -> tuple[list[dict[str, Any]], str | None]:
    """The RealSense cameras, and what stands in the way of using any, if something does."""
    from .sources.realsense import connected, load_sdk

    on_usb = realsense_on_usb()
    try:
        rs = load_sdk()
    except SourceError as error:
        plugged = f"{on_usb} is plugged in, but " if on_usb else ""
        return [], f"{plugged}{error}"
    found = [describe_realsense(rs, device) for device in connected(rs)]
    if on_usb and not found:
        return [], (
            f"{on_usb} is plugged in, but the SDK cannot open it; close other programs that use it, and "
            "install librealsense's udev rules (99-realsense-libusb.rules)."
        )
    return found, None


def realsense_on_usb() -> str:
    """The product name of a RealSense that the kernel sees on USB, whether or not the SDK can use it."""
    for product in sorted(USB.glob("*/product")):
        try:
            name = product.read_text(errors="replace").strip()
        except OSError:
            continue
        if "RealSense" in name:
            return name
    return ""


def describe_realsense(rs: Any, device: Any) -> dict[str, Any]:
    """Serial, firmware, USB type, URI, and the modes of colour and depth with their intrinsics."""
    from .sources.realsense import device_info, modes

    serial = device_info(rs, device, "serial_number")
    return {
        "camera": f"realsense:{serial}",
        "serial": serial,
        "name": device_info(rs, device, "name"),
        "firmware": device_info(rs, device, "firmware_version"),
        "usb": device_info(rs, device, "usb_type_descriptor"),
        "modes": {stream: _modes(rs, modes(rs, device, stream)) for stream in ("color", "depth")},
    }


def _modes(rs: Any, profiles: list[Any]) -> list[dict[str, Any]]:
    from .sources.realsense_lens import intrinsics

    sizes: dict[tuple[int, int], dict[str, Any]] = {}
    for profile in sorted(profiles, key=lambda each: (-each.width() * each.height(), -each.fps())):
        size = (profile.width(), profile.height())
        if size not in sizes:
            try:
                camera = intrinsics(rs, profile.get_intrinsics())
            except RuntimeError:  # a mode without calibration
                camera = None
            sizes[size] = {
                "width": size[0],
                "height": size[1],
                "fps": [],
                "intrinsics": None if camera is None else dataclasses.asdict(camera),
            }
        if profile.fps() not in sizes[size]["fps"]:
            sizes[size]["fps"].append(profile.fps())
    return list(sizes.values())


def show(found: dict[str, Any]) -> str:
    """The document as text, with what to check where nothing is connected."""
    lines: list[str] = []
    for device in found["realsense"]:
        about = [f"serial {device['serial']}", f"firmware {device['firmware']}", f"USB {device['usb']}"]
        lines += [f"{device['name']} ({', '.join(about)})"]
        lines += [f"  --camera {device['camera']}   or, beside another camera: --depth {device['camera']}"]
        for stream, modes in device["modes"].items():
            lines += [f"  {stream:<5}  {_realsense_mode(mode)}" for mode in modes]
    for device in found["v4l2"]:
        title = (
            f"{device['name'] or 'a device'} ({', '.join(filter(None, (device['driver'], device['bus'])))})"
        )
        lines += [title.removesuffix(" ()")]
        lines += [f"  --camera {device['camera']}" + (f"   ({device['device']})" if device["by_id"] else "")]
        lines += [f"  {device['problem']}"] if device["problem"] else []
        if "RealSense" in device["name"] and found["realsense"]:
            lines += ["  one stream of the RealSense above, without its SDK"]
        lines += [
            f"  {mode['pixels']:<5}  {mode['width']}x{mode['height']} {_rates(mode['fps'])}"
            for mode in device["modes"]
        ]
    if not lines:
        lines += [
            "no camera found. Check that it is plugged in ('lsusb' names it) and, in a container, that",
            "/dev is passed on ('docker run --device /dev/video0', or --privileged for RealSense).",
            "Without one: edgevae stream --camera synthetic",
        ]
    if found["realsense_problem"]:
        lines += [f"RealSense: {found['realsense_problem']}"]
    return "\n".join(lines)


def _realsense_mode(mode: dict[str, Any]) -> str:
    camera = mode["intrinsics"]
    text = f"{mode['width']}x{mode['height']} {_rates(mode['fps'])}"
    if camera is None:
        return text
    bent = ", distorted" if camera["distortion"] else ""
    numbers = " ".join(f"{key} {camera[key]:.1f}" for key in ("fx", "fy", "cx", "cy"))
    return f"{text}   {numbers}{bent}"


def _rates(fps: list[float] | tuple[float, ...]) -> str:
    return f"at {', '.join(f'{rate:g}' for rate in fps)} fps" if fps else ""
