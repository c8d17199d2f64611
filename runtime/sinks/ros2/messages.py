"""Results as messages of ROS 2.

| topic | type | holds |
|---|---|---|
| /il2vseg/image/compressed | sensor_msgs/CompressedImage | the frame, JPEG |
| /il2vseg/overlay/compressed | sensor_msgs/CompressedImage | the overlay, JPEG (live only) |
| /il2vseg/labels | sensor_msgs/Image | class ids, mono8 |
| /il2vseg/camera_info | sensor_msgs/CameraInfo | a pinhole camera of the field of view; K is 0 if unknown |
| /il2vseg/obstacles | vision_msgs/Detection2DArray | boxes, tracks as ids, places on the water |
| /diagnostics | diagnostic_msgs/DiagnosticArray | rate, drops, latency, what is wrong; 1 Hz and on a change |
| /rosout | rcl_interfaces/Log | events |

Boxes and images are in the frame il2vseg_camera_optical, places in il2vseg_camera: level, at the camera, x
along its axis, y to port, z up (REP 103).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from il2vseg.base.images import encode_jpeg
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Obstacle
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.ros2.types import encode

IMAGE = "/il2vseg/image/compressed"
OVERLAY = "/il2vseg/overlay/compressed"
LABELS = "/il2vseg/labels"
CAMERA = "/il2vseg/camera_info"
OBSTACLES = "/il2vseg/obstacles"
DIAGNOSTICS = "/diagnostics"
LOG = "/rosout"

TOPICS: dict[str, str] = {
    IMAGE: "sensor_msgs/msg/CompressedImage",
    OVERLAY: "sensor_msgs/msg/CompressedImage",
    LABELS: "sensor_msgs/msg/Image",
    CAMERA: "sensor_msgs/msg/CameraInfo",
    OBSTACLES: "vision_msgs/msg/Detection2DArray",
    DIAGNOSTICS: "diagnostic_msgs/msg/DiagnosticArray",
    LOG: "rcl_interfaces/msg/Log",
}

DIAGNOSTICS_S = 1.0

_QUALITY = 85
_OPTICAL, _LEVEL = "il2vseg_camera_optical", "il2vseg_camera"
_BEARING_ERROR = math.radians(0.6)
_OK, _WARN, _ERROR = 0, 1, 2
_INFO, _WARNING = 20, 30
_WARNINGS = frozenset(
    {
        "alarm", "collision_course", "camera_blind", "source_lost", "engine_failed", "unlike_training",
        "sink_failed", "stage_restarted",
    }
)  # fmt: skip


class Messages:
    """Results and events -> topics with encoded messages.

    for topic, data in Messages()(result, unix, lambda topic: True): ...
    """

    def __init__(self) -> None:
        self._told: tuple[float, tuple[int, ...]] = (-math.inf, ())

    def __call__(
        self, result: Result, unix: float, wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, bytes]]:
        """Make the messages of a result.

        Args:
            unix: seconds since 1970, for the stamps. wanted: whether a topic is; the others are not made.
        """
        head = header(unix, _OPTICAL)
        makers: dict[str, Callable[[], dict[str, Any] | None]] = {
            IMAGE: lambda: _picture(head, encode_jpeg(result.frame, _QUALITY)),
            OVERLAY: lambda: _picture(head, encode_jpeg(result.overlay, _QUALITY)),
            LABELS: lambda: _labels(head, result),
            CAMERA: lambda: _camera_info(head, result),
            OBSTACLES: lambda: _detections(head, result, unix),
            DIAGNOSTICS: lambda: self._diagnostics(result, unix),
        }
        for topic, make in makers.items():
            if wanted(topic) and (message := make()) is not None:
                yield topic, encode(TOPICS[topic], message)

    def _diagnostics(self, result: Result, unix: float) -> dict[str, Any] | None:
        statuses = list(_statuses(result))
        levels = tuple(status["level"] for status in statuses)
        last, told = self._told
        if levels == told and 0 <= unix - last < DIAGNOSTICS_S:
            return None
        self._told = unix, levels
        return {"header": header(unix, ""), "status": statuses}


def log(event: Event, unix: float) -> bytes:
    """The message of an event, for the topic LOG."""
    level = _WARNING if event.kind in _WARNINGS or event.kind.endswith("_lost") else _INFO
    message = {
        "stamp": header(unix, "")["stamp"],
        "level": level,
        "name": f"il2vseg.{event.kind}",
        "msg": event.message,
        "file": "",
        "function": "",
        "line": 0,
    }
    return encode(TOPICS[LOG], message)


def header(unix: float, frame_id: str) -> dict[str, Any]:
    """A std_msgs/Header."""
    sec, nanosec = divmod(round(1e9 * unix), 10**9)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def _picture(head: dict[str, Any], data: bytes) -> dict[str, Any]:
    return {"header": head, "format": "jpeg", "data": data}


def _labels(head: dict[str, Any], result: Result) -> dict[str, Any]:
    height, width = result.labels.shape
    return {
        "header": head,
        "height": height,
        "width": width,
        "encoding": "mono8",
        "is_bigendian": 0,
        "step": width,
        "data": result.labels.tobytes(),
    }


def _camera_info(head: dict[str, Any], result: Result) -> dict[str, Any]:
    height, width = result.labels.shape
    camera = None if result.scene is None else result.scene.camera
    matrix = np.zeros((3, 4))
    if camera is not None:
        focal = camera.focal(width)
        matrix[:, :3] = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    region = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    return {
        "header": head,
        "height": height,
        "width": width,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": matrix[:, :3].ravel(),
        "r": np.eye(3).ravel(),
        "p": matrix.ravel(),
        "binning_x": 0,
        "binning_y": 0,
        "roi": region,
    }


def _detections(head: dict[str, Any], result: Result, unix: float) -> dict[str, Any] | None:
    """The obstacles; None where nobody looked for any."""
    if result.scene is None:
        return None
    level, camera = header(unix, _LEVEL), result.scene.camera
    detections = [
        {
            "header": level,
            "results": [
                {
                    "hypothesis": {"class_id": "obstacle", "score": _score(obstacle, result)},
                    "pose": _place(obstacle, camera),
                }
            ],
            "bbox": _box(obstacle),
            "id": "" if obstacle.track is None else str(obstacle.track),
        }
        for obstacle in result.obstacles
    ]
    return {"header": head, "detections": detections}


def _score(obstacle: Obstacle, result: Result) -> float:
    """How like the training the cells of the box are, 0 to 1; 1 where the model cannot tell."""
    if result.confidence is None:
        return 1.0
    rows, columns = result.confidence.shape
    height, width = result.labels.shape
    left, top, w, h = obstacle.box
    x, y = left * columns // width, top * rows // height
    cells = result.confidence[
        y : max(y + 1, (top + h) * rows // height), x : max(x + 1, (left + w) * columns // width)
    ]
    return float(cells.mean()) if cells.size else 1.0


def _box(obstacle: Obstacle) -> dict[str, Any]:
    left, top, width, height = obstacle.box
    centre = {"x": left + width / 2, "y": top + height / 2}
    return {"center": {"position": centre, "theta": 0.0}, "size_x": width, "size_y": height}


def _place(obstacle: Obstacle, camera: Camera | None) -> dict[str, Any]:
    """Where it stands, with covariance; NaN where that is not known."""
    x = y = z = math.nan
    covariance = np.zeros((6, 6))
    if camera is not None and obstacle.range_m is not None and obstacle.bearing_deg is not None:
        bearing, distance = math.radians(obstacle.bearing_deg), obstacle.range_m
        along = np.array([math.cos(bearing), -math.sin(bearing)])
        across = np.array([-along[1], along[0]])
        x, y = (float(v) for v in distance * along)
        z = -camera.height
        covariance[:2, :2] = (obstacle.range_error_m or 0.0) ** 2 * np.outer(along, along)
        covariance[:2, :2] += (_BEARING_ERROR * distance) ** 2 * np.outer(across, across)
    return {
        "pose": {
            "position": {"x": x, "y": y, "z": z},
            "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
        },
        "covariance": covariance.ravel(),
    }


def _statuses(result: Result) -> Iterator[dict[str, Any]]:
    """What is well and what is not: the camera, and the danger zone where there is a marine layer."""
    numbers = {"fps": f"{result.fps:.1f}", "dropped": str(result.dropped)}
    if "total" in result.latency_ms:
        numbers["latency_ms"] = f"{result.latency_ms['total']:.1f}"
    if result.unlike is not None:
        numbers["unlike"] = f"{result.unlike:.3f}"
    blind = result.blind is not None
    yield _status(
        "camera", _ERROR if blind else _OK, f"shows nothing: {result.blind}" if blind else "sees", numbers
    )
    if result.scene is not None:
        alarm = result.scene.alarm
        text = "an obstacle is in it" if alarm else "clear"
        yield _status(
            "danger zone", _WARN if alarm else _OK, text, {"obstacles": str(len(result.scene.confirmed))}
        )


def _status(name: str, level: int, message: str, numbers: dict[str, str]) -> dict[str, Any]:
    return {
        "level": level,
        "name": f"il2vseg: {name}",
        "message": message,
        "hardware_id": "",
        "values": [{"key": key, "value": value} for key, value in numbers.items()],
    }
