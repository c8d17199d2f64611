"""The message types of ROS 2 that are written, and their encoding (CDR, little-endian).

    encode("std_msgs/msg/Header", {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": "camera"})

The definitions are data: what a field is called, and of which type. Encoder and schemas follow from them.
"""

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

DEFINITIONS: dict[str, str] = {
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data",
    "sensor_msgs/msg/Image": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\n"
        "uint32 step\nuint8[] data"
    ),
    "sensor_msgs/msg/RegionOfInterest": (
        "uint32 x_offset\nuint32 y_offset\nuint32 height\nuint32 width\nbool do_rectify"
    ),
    "sensor_msgs/msg/CameraInfo": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\nfloat64[] d\n"
        "float64[9] k\nfloat64[9] r\nfloat64[12] p\nuint32 binning_x\nuint32 binning_y\n"
        "sensor_msgs/RegionOfInterest roi"
    ),
    "geometry_msgs/msg/Point": "float64 x\nfloat64 y\nfloat64 z",
    "geometry_msgs/msg/Quaternion": "float64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1",
    "geometry_msgs/msg/Pose": "geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation",
    "geometry_msgs/msg/PoseWithCovariance": "geometry_msgs/Pose pose\nfloat64[36] covariance",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id"
    ),
    "vision_msgs/msg/Detection2DArray": ("std_msgs/Header header\nvision_msgs/Detection2D[] detections"),
    "diagnostic_msgs/msg/KeyValue": "string key\nstring value",
    "diagnostic_msgs/msg/DiagnosticStatus": (
        "byte OK=0\nbyte WARN=1\nbyte ERROR=2\nbyte STALE=3\n"
        "byte level\nstring name\nstring message\nstring hardware_id\ndiagnostic_msgs/KeyValue[] values"
    ),
    "diagnostic_msgs/msg/DiagnosticArray": (
        "std_msgs/Header header\ndiagnostic_msgs/DiagnosticStatus[] status"
    ),
    "rcl_interfaces/msg/Log": (
        "byte DEBUG=10\nbyte INFO=20\nbyte WARN=30\nbyte ERROR=40\nbyte FATAL=50\n"
        "builtin_interfaces/Time stamp\nuint8 level\nstring name\nstring msg\nstring file\n"
        "string function\nuint32 line"
    ),
}
"""As in ROS 2 Humble and later, vision_msgs 4."""

_NUMBERS = {
    "bool": "?", "byte": "B", "uint8": "B", "int32": "i", "uint32": "I", "float64": "d",
}  # fmt: skip


def schema(kind: str) -> str:
    """The definition of a type and of those that it is made of, as an MCAP schema of `ros2msg`."""
    parts = [DEFINITIONS[kind]]
    for other in dict.fromkeys(_parts(kind)):
        parts.append(f"{'=' * 80}\nMSG: {other.replace('/msg/', '/')}\n{DEFINITIONS[other]}")
    return "\n".join(parts) + "\n"


def encode(kind: str, value: dict[str, Any]) -> bytes:
    """Encode a message; `value` has every field of the type, and bytes where it is uint8[]."""
    out = bytearray()
    _write(out, kind, value)
    return b"\x00\x01\x00\x00" + bytes(out)  # CDR, little-endian, no options


@cache
def _fields(kind: str) -> tuple[tuple[str, str, int | None], ...]:
    """Name, type and count of every field: count 1 is one value, None any number of them, else so many."""
    found = []
    for line in DEFINITIONS[kind].split("\n"):
        declared, name, *_ = line.split()
        if "=" in name:
            continue
        base, bracket, count = declared.partition("[")
        base = base.replace("/", "/msg/")
        found.append((name, base, 1 if not bracket else int(count[:-1]) if count != "]" else None))
    return tuple(found)


def _parts(kind: str) -> Iterator[str]:
    for _, base, _ in _fields(kind):
        if base in DEFINITIONS:
            yield base
            yield from _parts(base)


def _align(out: bytearray, size: int) -> None:
    out.extend(bytes(-len(out) % size))


def _write(out: bytearray, kind: str, value: dict[str, Any]) -> None:
    for name, base, count in _fields(kind):
        given = value[name]
        if count == 1:
            _write_one(out, base, given)
            continue
        if count is None:
            _write_one(out, "uint32", len(given))
        elif count != len(given):
            raise ValueError(f"{kind}: {name} needs {count} values")
        if base == "uint8":
            out.extend(given)
        elif base == "float64":
            if len(given):
                _align(out, 8)
                out.extend(np.asarray(given, "<f8").tobytes())
        else:
            for one in given:
                _write_one(out, base, one)


def _write_one(out: bytearray, base: str, value: Any) -> None:
    if base == "string":
        data = str(value).encode() + b"\0"
        _write_one(out, "uint32", len(data))
        out.extend(data)
    elif (code := _NUMBERS.get(base)) is not None:
        _align(out, struct.calcsize(code))
        out.extend(struct.pack("<" + code, value))
    else:
        _write(out, base, value)
