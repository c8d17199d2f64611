"""Messages of ROS 2 as bytes, beside another encoder's."""

import struct
from typing import Any

import pytest

from il2vseg.runtime.events import Event
from il2vseg.runtime.sinks.ros2 import messages
from il2vseg.runtime.sinks.ros2.messages import Messages
from il2vseg.runtime.sinks.ros2.types import DEFINITIONS, encode, schema

from .conftest import seen


def test_the_definitions_are_those_of_ros_2(store: Any) -> None:
    """By the hashes by which nodes of ROS 2 agree that they speak of the same."""
    from rosbags.typesys import Stores, get_typestore

    humble = get_typestore(Stores.ROS2_HUMBLE)
    known = [kind for kind in DEFINITIONS if kind in humble.fielddefs]
    assert len(known) == 14  # all but those of vision_msgs
    for kind in known:
        assert store.hash_rihs01(kind) == humble.hash_rihs01(kind), kind


def test_messages_are_encoded_as_another_encoder_does(store: Any) -> None:
    result = seen(latency_ms={"total": 12.0}, unlike=0.25)
    made = dict(Messages()(result, 1.7e9 + 0.25, lambda topic: True))
    made[messages.LOG] = messages.log(Event("alarm", "boät"), 1.7e9)
    assert made.keys() == messages.TOPICS.keys()
    for topic, kind in messages.TOPICS.items():
        decoded = store.deserialize_cdr(made[topic], kind)
        assert bytes(store.serialize_cdr(decoded, kind)) == made[topic], topic


@pytest.mark.parametrize("length", range(8))
def test_numbers_after_texts_of_any_length_are_aligned(store: Any, length: int) -> None:
    kind = "sensor_msgs/msg/CameraInfo"
    ((_, data),) = Messages()(seen(), 1.7e9, "/il2vseg/camera_info".__eq__)
    info = vars(store.deserialize_cdr(data, kind)) | {"distortion_model": length * "x"}
    head = messages.header(1.7e9, "camera")
    roi = {"x_offset": 1, "y_offset": 2, "height": 3, "width": 4, "do_rectify": True}
    again = encode(kind, info | {"header": head, "roi": roi})
    decoded = store.deserialize_cdr(again, kind)
    assert (decoded.d.tolist(), decoded.k.tolist()) == (info["d"].tolist(), info["k"].tolist())
    assert bytes(store.serialize_cdr(decoded, kind)) == again


def test_fields_are_aligned_and_counted() -> None:
    data = encode("std_msgs/msg/Header", {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": "ab"})
    assert data == bytes.fromhex("00010000 01000000 02000000 03000000 616200")
    point = encode("vision_msgs/msg/Point2D", {"x": 1.0, "y": -2.0})
    assert point == b"\0\1\0\0" + struct.pack("<dd", 1.0, -2.0)
    with pytest.raises(ValueError, match="k needs 9 values"):
        encode(
            "sensor_msgs/msg/CameraInfo",
            {
                "header": messages.header(0, ""),
                "height": 1,
                "width": 1,
                "distortion_model": "",
                "d": [],
                "k": [0],
            },
        )


def test_a_schema_has_every_type_once() -> None:
    text = schema("vision_msgs/msg/Detection2DArray")
    assert text.startswith("std_msgs/Header header\nvision_msgs/Detection2D[] detections\n====")
    for name in (
        "std_msgs/Header",
        "builtin_interfaces/Time",
        "geometry_msgs/Quaternion",
        "vision_msgs/Point2D",
    ):
        assert text.count(f"MSG: {name}\n") == 1
