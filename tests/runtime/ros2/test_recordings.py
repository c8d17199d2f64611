"""What a recording holds, read back by two decoders of others."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.runtime.events import Event
from il2vseg.runtime.sinks.ros2.messages import Messages

from ..conftest import make_result, needs
from .conftest import seen


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    needs("mcap", "mcap")
    from il2vseg.runtime.sinks.ros2.recording import Ros2McapSink

    path = tmp_path / "o.mcap"
    with Ros2McapSink(path) as sink:
        for i in range(12):  # 1.1 seconds; the alarm is on for two frames
            sink.write(seen(i, alarm=i in (4, 5)))
        sink.event(Event("alarm", "obstacle at 20 m"))
        sink.event(Event("source_back", "camera 0"))
    return path


def read(path: Path, topic: str) -> list[Any]:
    """All messages of a topic, by mcap-ros2-support."""
    needs("mcap_ros2", "dev")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        return [(m.log_time, d) for _, _, m, d in reader.iter_decoded_messages(topics=[topic])]


def test_a_recording_holds_the_frames_and_the_class_ids(recording: Path) -> None:
    pictures = read(recording, "/il2vseg/image/compressed")
    assert len(pictures) == 12
    time, picture = pictures[3]
    assert time == pytest.approx(1_700_000_000_300_000_000, abs=1000)
    stamp = picture.header.stamp
    assert (stamp.sec, stamp.nanosec) == (1_700_000_000, pytest.approx(300_000_000, abs=1000))
    assert (picture.header.frame_id, picture.format) == ("il2vseg_camera_optical", "jpeg")
    image = cv2.imdecode(np.frombuffer(bytes(picture.data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (48, 64, 3)
    assert abs(int(image[0, 0, 0]) - 13) <= 1
    _, labels = read(recording, "/il2vseg/labels")[3]
    assert (labels.encoding, labels.step, labels.is_bigendian) == ("mono8", 64, 0)
    found = np.frombuffer(bytes(labels.data), np.uint8).reshape(labels.height, labels.width)
    np.testing.assert_array_equal(found, seen().labels)


def test_a_recording_holds_the_camera(recording: Path) -> None:
    _, info = read(recording, "/il2vseg/camera_info")[0]
    focal = 32 / math.tan(math.radians(30))
    assert list(info.k) == pytest.approx([focal, 0, 31.5, 0, focal, 23.5, 0, 0, 1])
    assert list(info.p) == pytest.approx([focal, 0, 31.5, 0, 0, focal, 23.5, 0, 0, 0, 1, 0])
    assert list(info.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert (info.height, info.width, info.distortion_model) == (48, 64, "plumb_bob")


def test_a_camera_that_is_not_known_says_so(store: Any) -> None:
    """By the rule of CameraInfo: K[0] is 0."""
    ((_, data),) = Messages()(seen(camera=None), 0.0, "/il2vseg/camera_info".__eq__)
    info = store.deserialize_cdr(data, "sensor_msgs/msg/CameraInfo")
    assert info.k.tolist() == [0.0] * 9


def test_a_recording_holds_the_obstacles(recording: Path) -> None:
    _, array = read(recording, "/il2vseg/obstacles")[0]
    known, unknown = array.detections
    assert (known.id, unknown.id) == ("7", "")
    assert (known.bbox.center.position.x, known.bbox.center.position.y) == (14.0, 23.0)
    assert (known.bbox.size_x, known.bbox.size_y) == (8.0, 6.0)
    (result,) = known.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ("obstacle", 1.0)
    place = result.pose.pose.position
    assert (place.x, place.y, place.z) == pytest.approx((20 * math.cos(math.pi / 6), -10.0, -2.0))
    assert result.pose.pose.orientation.w == 1.0
    covariance = np.reshape(list(result.pose.covariance), (6, 6))
    along = np.array([math.cos(math.pi / 6), -0.5])
    assert along @ covariance[:2, :2] @ along == pytest.approx(0.25)  # the error of the range, squared
    np.testing.assert_allclose(covariance, covariance.T)
    nowhere = unknown.results[0].pose.pose.position
    assert math.isnan(nowhere.x)
    assert known.header.frame_id == "il2vseg_camera"


def test_a_recording_holds_what_is_wrong(recording: Path) -> None:
    told = read(recording, "/diagnostics")
    levels = [[status.level for status in m.status] for _, m in told]
    assert levels == [[0, 0], [0, 1], [0, 0]]  # at the start, and when the alarm begins and ends
    assert [status.name for status in told[0][1].status] == ["il2vseg: camera", "il2vseg: danger zone"]
    values = {v.key: v.value for v in told[0][1].status[0].values}
    assert values == {"fps": "9.5", "dropped": "3"}
    events = [(m.level, m.name, m.msg) for _, m in read(recording, "/rosout")]
    assert events == [(30, "il2vseg.alarm", "obstacle at 20 m"), (20, "il2vseg.source_back", "camera 0")]


def test_what_is_wrong_is_told_once_a_second_and_when_it_changes(store: Any) -> None:
    make = Messages()
    told = []
    for i in range(25):
        result = seen(i, blind="black" if i >= 20 else None)
        told += [(i, data) for _, data in make(result, 100 + i / 10, "/diagnostics".__eq__)]
    assert [i for i, _ in told] == [0, 10, 20]
    camera = store.deserialize_cdr(told[-1][1], "diagnostic_msgs/msg/DiagnosticArray").status[0]
    assert (camera.level, camera.message) == (2, "shows nothing: black")


def test_the_score_is_the_confidence_in_the_box(store: Any) -> None:
    confidence = np.full((12, 16), 0.9, np.float32)
    confidence[5:6, 2:4] = 0.3
    result = replace(seen(), confidence=confidence)
    ((_, data),) = Messages()(result, 0.0, "/il2vseg/obstacles".__eq__)
    first = store.deserialize_cdr(data, "vision_msgs/msg/Detection2DArray").detections[0]
    assert first.results[0].hypothesis.score == pytest.approx(0.3, abs=1e-6)


def test_without_a_marine_layer_there_are_no_obstacles() -> None:
    topics = {topic for topic, _ in Messages()(make_result(), 0.0, lambda topic: True)}
    assert "/il2vseg/obstacles" not in topics
    assert "/il2vseg/camera_info" in topics


def test_rosbags_opens_the_recording(recording: Path) -> None:
    needs("rosbags", "dev")
    from rosbags.highlevel import AnyReader

    with AnyReader([recording]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        kinds = {c.topic: c.msgtype for c in reader.connections}
        connection = next(c for c in reader.connections if c.topic == "/il2vseg/obstacles")
        _, _, data = next(reader.messages([connection]))
        array = reader.deserialize(data, connection.msgtype)
    assert kinds["/il2vseg/obstacles"] == "vision_msgs/msg/Detection2DArray"
    assert (counts["/il2vseg/image/compressed"], counts["/il2vseg/labels"]) == (12, 12)
    assert array.detections[0].id == "7"


def test_class_ids_take_no_room(recording: Path, tmp_path: Path) -> None:
    from il2vseg.runtime.sinks.ros2.recording import Ros2McapSink

    labels = np.zeros((360, 640), np.uint8)
    with Ros2McapSink(tmp_path / "large.mcap") as sink:
        for i in range(10):
            sink.write(make_result(np.zeros((360, 640, 3), np.uint8), labels, index=i))
    assert (tmp_path / "large.mcap").stat().st_size < 360 * 640


def test_a_run_records_messages_of_ros_2(model: Path, tmp_path: Path) -> None:
    needs("mcap", "mcap")
    from il2vseg.runtime.cli import main

    arguments = ["--model", str(model), "--provider", "cpu", "--source", "synthetic:size=48x64,frames=3"]
    path = tmp_path / "o.mcap"
    assert main([*arguments, "--mcap", str(path), "--mcap-schema", "ros2"]) == 0
    assert len(read(path, "/il2vseg/obstacles")) == 3
