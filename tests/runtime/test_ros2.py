"""Messages of ROS 2, read back by two decoders of others, from a recording, a WebSocket and a node."""

import contextlib
import json
import math
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.runtime.events import Event
from il2vseg.runtime.marine.scene import Obstacle, Scene
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.ros2 import messages
from il2vseg.runtime.sinks.ros2.messages import Messages
from il2vseg.runtime.sinks.ros2.types import DEFINITIONS, encode, schema
from tests.waiting import eventually

from .conftest import SIZE, make_result, needs

OBSTACLES = (
    Obstacle((10, 20, 8, 6), (14.0, 26.0), 30.0, 20.0, 0.5, track=7),
    Obstacle((40, 18, 3, 4), (41.0, 22.0)),
)
CAMERA = Camera(2.0, 60.0)


def seen(index: int = 0, *, alarm: bool = False, camera: Camera | None = CAMERA, **fields: Any) -> Result:
    scene = Scene(SIZE, np.full(SIZE[1], 20.0, np.float32), None, OBSTACLES, alarm, camera)
    labels = np.zeros(SIZE, np.uint8)
    labels[:, 5:] = 2
    return make_result(labels=labels, index=index, scene=scene, fps=9.5, dropped=3, **fields)


@pytest.fixture
def store() -> Any:
    """The message types as rosbags reads our definitions."""
    needs("rosbags", "dev")
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store, found = get_typestore(Stores.EMPTY), {}
    for kind, text in DEFINITIONS.items():
        found.update(get_types_from_msg(text, kind))
    store.register(found)
    return store


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


# --- recordings -----------------------------------------------------------------------------------------


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


# --- Foxglove -------------------------------------------------------------------------------------------


class Viewer:
    """Speaks Foxglove's protocol, as its app does."""

    def __init__(self, url: str) -> None:
        from websockets.sync.client import connect

        self._stack = contextlib.ExitStack()
        opened = connect(url, subprotocols=["foxglove.sdk.v1"], open_timeout=5)  # type: ignore[list-item]
        self.socket = self._stack.enter_context(opened)
        self.channels: dict[str, dict[str, Any]] = {}
        while len(self.channels) < 7:
            message = self.socket.recv(timeout=5)
            if isinstance(message, str) and (told := json.loads(message))["op"] == "advertise":
                self.channels |= {c["topic"]: c for c in told["channels"]}

    def subscribe(self, number: int, topic: str) -> None:
        wanted = [{"id": number, "channelId": self.channels[topic]["id"]}]
        self.socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))

    def receive(self, seconds: float = 0.05) -> tuple[int, int, bytes] | None:
        """Number of the subscription, time and payload of the next message; None if none comes."""
        with contextlib.suppress(TimeoutError):
            while True:
                message = self.socket.recv(timeout=seconds)
                if isinstance(message, bytes) and message[0] == 1:
                    number, time = struct.unpack_from("<IQ", message, 1)
                    return number, time, message[13:]
        return None


@pytest.fixture
def served() -> Iterator[Any]:
    needs("foxglove", "foxglove")
    needs("websockets", "dev")
    from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

    with FoxgloveSink("0") as sink:
        yield sink


def until(viewer: Viewer, write: Callable[[], None]) -> tuple[int, int, bytes]:
    """Write until something comes."""
    found: list[tuple[int, int, bytes]] = []

    def came() -> bool:
        write()
        if (message := viewer.receive()) is not None:
            found.append(message)
        return bool(found)

    eventually(came)
    return found[0]


def test_foxglove_gets_the_topics_with_their_schemas(served: Any, store: Any) -> None:
    viewer = Viewer(served.url)
    assert viewer.channels.keys() == messages.TOPICS.keys()
    channel = viewer.channels["/il2vseg/obstacles"]
    assert (channel["encoding"], channel["schemaEncoding"]) == ("cdr", "ros2msg")
    assert channel["schemaName"] == "vision_msgs/msg/Detection2DArray"
    assert channel["schema"] == schema("vision_msgs/msg/Detection2DArray")
    viewer.subscribe(3, "/il2vseg/obstacles")
    number, time, data = until(viewer, lambda: served.write(seen(2)))
    assert (number, time) == (3, pytest.approx(1_700_000_000_200_000_000, abs=1000))
    assert store.deserialize_cdr(data, "vision_msgs/msg/Detection2DArray").detections[0].id == "7"
    viewer.subscribe(4, "/rosout")

    def event_came() -> bool:
        served.event(Event("alarm", "boat"))
        return bool((message := viewer.receive()) and message[0] == 4)

    eventually(event_came)
    viewer.socket.close()


def test_a_viewer_goes_and_another_comes(served: Any) -> None:
    for _ in range(2):
        viewer = Viewer(served.url)
        viewer.subscribe(0, "/il2vseg/labels")
        until(viewer, lambda: served.write(seen()))
        viewer.socket.socket.close()  # no goodbye
        served.write(seen())


def test_a_viewer_that_takes_nothing_slows_nobody(served: Any) -> None:
    stuck, awake = Viewer(served.url), Viewer(served.url)
    stuck.subscribe(0, "/il2vseg/labels")
    awake.subscribe(0, "/il2vseg/labels")
    large = make_result(np.zeros((720, 1280, 3), np.uint8), np.zeros((720, 1280), np.uint8))
    until(awake, lambda: served.write(seen()))
    while awake.receive():
        pass
    longest = 0.0
    for _ in range(40):  # 37 MB: more than the buffers on the way hold
        begun = time.monotonic()
        served.write(large)
        longest = max(longest, time.monotonic() - begun)
        assert awake.receive(5.0) is not None
    assert longest < 1.0


def test_what_nobody_looks_at_is_not_encoded(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    original = messages.encode
    monkeypatch.setattr(messages, "encode", lambda kind, value: encoded.append(kind) or original(kind, value))
    viewer = Viewer(served.url)
    viewer.subscribe(0, "/il2vseg/labels")
    until(viewer, lambda: served.write(seen()))
    assert set(encoded) == {"sensor_msgs/msg/Image"}
    viewer.socket.close()


def test_an_address_that_is_taken_or_none_is_refused(served: Any) -> None:
    from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

    port = served.url.rpartition(":")[2]
    for address in (port, "nowhere", "99999"):
        with pytest.raises(UserError, match=f"--foxglove {address}"):
            FoxgloveSink(address)


# --- rclpy ----------------------------------------------------------------------------------------------


class FakeRclpy:
    """The part of rclpy's interface that is used; rclpy itself is on no package index."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published: list[tuple[str, str, Any, bytes]] = []
        self.subscribers: dict[str, int] = {}
        self.calls: list[str] = []
        fake = self

        class Publisher:
            def __init__(self, kind: type, topic: str, quality: Any) -> None:
                self.kind, self.topic, self.quality = kind, topic, quality

            def get_subscription_count(self) -> int:
                return fake.subscribers.get(self.topic, 0)

            def publish(self, message: Any) -> None:
                fake.published.append((self.topic, self.kind.__name__, self.quality, message))

        class Node:
            def create_publisher(self, kind: type, topic: str, quality: Any) -> Publisher:
                return Publisher(kind, topic, quality)

            def destroy_node(self) -> None:
                fake.calls.append("destroy_node")

        def create_node(name: str, *, context: Any) -> Node:
            fake.calls.append(f"create_node {name}")
            return Node()

        def init(*, context: Any, signal_handler_options: str) -> None:
            fake.calls.append(f"init {signal_handler_options}")

        def shutdown(*, context: Any) -> None:
            fake.calls.append("shutdown")

        modules: dict[str, dict[str, Any]] = {
            "rclpy": {"init": init, "create_node": create_node, "shutdown": shutdown},
            "rclpy.qos": {"qos_profile_sensor_data": "sensor"},
            "rclpy.signals": {"SignalHandlerOptions": types.SimpleNamespace(NO="no signals")},
            "rclpy.context": {"Context": object},
        }
        for kind in messages.TOPICS.values():
            package, _, name = kind.partition("/msg/")
            modules.setdefault(f"{package}.msg", {})[name] = type(name, (), {})
        for name, content in modules.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)


def test_a_node_publishes_what_is_subscribed_to(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    from il2vseg.runtime.sinks.ros2.node import Ros2Sink

    ros = FakeRclpy(monkeypatch)
    ros.subscribers = {"/il2vseg/obstacles": 1, "/il2vseg/labels": 2}
    sink = Ros2Sink()
    assert ros.calls == ["init no signals", "create_node il2vseg"]
    sink.write(seen())
    sink.event(Event("alarm", "boat"))
    sink.close()
    assert ros.calls[2:] == ["destroy_node", "shutdown"]
    by_topic = {topic: rest for topic, *rest in ros.published}
    assert by_topic.keys() == {"/il2vseg/obstacles", "/il2vseg/labels", "/rosout"}
    kind, quality, data = by_topic["/il2vseg/obstacles"]
    assert (kind, quality, type(data)) == ("Detection2DArray", 10, bytes)
    assert store.deserialize_cdr(data, "vision_msgs/msg/Detection2DArray").detections[0].id == "7"
    assert by_topic["/il2vseg/labels"][1] == "sensor"


def test_a_node_that_fails_is_an_error_of_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    from il2vseg.runtime.sinks.ros2.node import Ros2Sink

    ros = FakeRclpy(monkeypatch)
    sink = Ros2Sink()

    def fail() -> int:
        raise RuntimeError("the context is invalid")

    sink._publishers["/il2vseg/labels"].get_subscription_count = fail
    with pytest.raises(OSError, match="the context is invalid"):
        eventually(lambda: sink.write(seen()))
    assert ros.published == []
    sink.close()


def test_without_ros_2_there_is_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from il2vseg.runtime.cli import main

    arguments = ["--model", str(model), "--provider", "cpu", "--source", "synthetic:size=48x64,frames=1"]
    assert main([*arguments, "--ros2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--ros2 needs rclpy and vision_msgs" in error
    assert "--mcap-schema ros2" in error
