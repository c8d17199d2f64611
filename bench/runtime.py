"""What the pipeline costs beside the model: `python bench/runtime.py`.

A null engine answers at once, so all that is measured is reading, hand-over between threads, overlay and
video. The cases take turns, so that whatever else the machine does falls on all of them alike.
"""

import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from il2vseg.base.images import Frame
from il2vseg.base.media.clips import Clip
from il2vseg.runtime.histogram import Histogram
from il2vseg.runtime.manifest import ClassInfo
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser
from il2vseg.runtime.marine.water_plane import Camera
from il2vseg.runtime.pipeline import Pipeline
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.encoder import have_h264, open_encoder
from il2vseg.runtime.sinks.video import VideoSink
from il2vseg.runtime.sources.base import Captured, Source

SIZE = (360, 640)
ROUNDS = 5
CLASSES = (
    ClassInfo("obstacle", (247, 195, 37)),
    ClassInfo("water", (41, 167, 224)),
    ClassInfo("sky", (90, 75, 164)),
)


class Frames(Source):
    """Rendered frames over and over; live ones come at `fps`."""

    def __init__(self, frames: Sequence[Frame], count: int, fps: float | None = None) -> None:
        self.live = fps is not None
        self._frames, self.total, self._fps = frames, count, fps
        self._index, self._start = 0, time.monotonic()

    def read(self) -> Captured | None:
        if self._index == self.total:
            return None
        if self._fps is not None:
            time.sleep(max(0.0, self._start + self._index / self._fps - time.monotonic()))
        self._index += 1
        frame = self._frames[self._index % len(self._frames)]
        timeline = None if self.live else self._index / 30
        return Captured(frame, self._index - 1, f"frame_{self._index:06d}", timeline_s=timeline)


def run(source: Source, labels: np.ndarray, sinks: Sequence[Sink] = (), *, marine: bool = False) -> Pipeline:
    """Run a pipeline with a null engine and return it."""
    scores = np.ones((3, 24, 32), np.float32)

    def engine(frame: Frame) -> Result:
        return Result(Captured(frame, 0, "frame"), labels, scores, CLASSES)

    analyser = MarineAnalyser(Classes(1, 0, 2)) if marine else None
    pipeline = Pipeline(source, engine, sinks, analyse=analyser)
    pipeline.run()
    return pipeline


def fps_of(case: Callable[[], Pipeline]) -> float:
    """Frames a second of a case."""
    begun = time.perf_counter()
    pipeline = case()
    return pipeline.frames / (time.perf_counter() - begun)


def main() -> None:
    """Print the table."""
    from il2vseg.data.synthetic import render

    cv2.setNumThreads(1)
    rendered = [render(1, 4 * i, SIZE) for i in range(16)]
    frames, labels = [frame for frame, _ in rendered], rendered[0][1]
    with tempfile.TemporaryDirectory() as folder:

        def video(suffix: str) -> Pipeline:
            sink = VideoSink(Path(folder) / f"o{suffix}", fps=30.0)
            return run(Frames(frames, 200), labels, [sink])

        cases: dict[str, tuple[Callable[[], Pipeline], int | None]] = {
            "no sinks": (lambda: run(Frames(frames, 1500), labels), 300),
            "marine layer": (lambda: run(Frames(frames, 300), labels, marine=True), None),
            "overlay video, MPEG-4 (OpenCV)": (partial(video, ".avi" if not have_h264() else ".m4v"), 60),
        }
        if have_h264():
            cases["overlay video, H.264 (PyAV)"] = (partial(video, ".mp4"), 60)
        results: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (case, _) in cases.items():
                results[name].append(fps_of(case))
    print(f"null engine, {SIZE[1]}x{SIZE[0]}, median of {ROUNDS} interleaved rounds")
    print(f"{'case':<34}{'frames/s':>10}{'wanted':>10}")
    for name, (_, wanted) in cases.items():
        print(f"{name:<34}{statistics.median(results[name]):>10.0f}{f'>= {wanted}' if wanted else '':>10}")
    pyav, opencv = reading(frames)
    print(f"\n{'reading H.264, medians of turns':<34}{'frames/s':>10}{'wanted':>10}")
    print(f"{'PyAV, as all commands read':<34}{pyav:>10.0f}{'>= OpenCV':>10}\n{'OpenCV':<34}{opencv:>10.0f}")
    print(f"\n{'processor time of a sink per frame':<34}{'ms':>10}{'wanted':>10}")
    for name, ms in sink_costs(frames, labels).items():
        print(f"{name:<34}{ms:>10.2f}{'< 2':>10}")
    latency = added_latency(frames, labels)
    print(f"\n{'capture to label, live at 30 fps':<34}{'ms':>10}{'wanted':>10}")
    for name, q, wanted in (("p50", 0.5, "< 10"), ("p95", 0.95, ""), ("p99", 0.99, "")):
        print(f"{name:<34}{latency.quantile(q):>10.2f}{wanted:>10}")


def sink_costs(frames: Sequence[Frame], labels: np.ndarray) -> dict[str, float]:
    """Median milliseconds of the sinks' thread by sink, with something to tell in every frame."""
    analyser = MarineAnalyser(Classes(1, 0, 2), Camera(2.0, 60.0, pitch=0.0), danger_m=100.0)
    scene = analyser(labels)
    scene = replace(scene, obstacles=tuple(replace(o, track=i) for i, o in enumerate(scene.obstacles)))
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, udp_reader() as port:
        for name, extra, open_sink in onboard_sinks(Path(folder), port):
            if find_spec(extra) is None:
                continue
            passed: list[float] = []
            with open_sink() as sink:
                vars(sink)["_clock"] = (
                    count().__next__
                )  # every frame is a second later, and nothing too early
                for i in range(200):
                    captured = Captured(frames[i % len(frames)], i, f"frame_{i:06d}", clock=float(i))
                    scores = np.ones((3, 24, 32), np.float32)
                    result = Result(captured, labels, scores, CLASSES, scene=scene)
                    begun = time.thread_time()  # whatever else the machine does
                    sink.write(result)
                    passed.append(1e3 * (time.thread_time() - begun))
            costs[name] = statistics.median(passed)
    return costs


def onboard_sinks(folder: Path, port: int) -> Iterator[tuple[str, str, Callable[[], Sink]]]:
    """Name, module that it needs, and how to open it."""

    def mavlink() -> Sink:
        from il2vseg.runtime.sinks.mavlink import MavlinkSink

        return MavlinkSink(f"udp:127.0.0.1:{port}", distance_sensor=True)

    def nmea() -> Sink:
        from il2vseg.runtime.sinks.nmea import NmeaSink

        return NmeaSink(f"udp:127.0.0.1:{port}")

    def mcap() -> Sink:
        from il2vseg.runtime.sinks.mcap import McapSink

        return McapSink(folder / "json.mcap")

    def ros2() -> Sink:
        from il2vseg.runtime.sinks.ros2.recording import Ros2McapSink

        return Ros2McapSink(folder / "ros2.mcap")

    def foxglove() -> Sink:
        from il2vseg.runtime.sinks.ros2.foxglove import FoxgloveSink

        return FoxgloveSink("0")

    def signalk() -> Sink:
        from il2vseg.runtime.sinks.signalk import SignalKSink

        return SignalKSink("ws://127.0.0.1:1")

    def stream() -> Sink:
        from il2vseg.runtime.sinks.stream import StreamSink

        return StreamSink(f"udp://127.0.0.1:{port}")

    yield "MAVLink, every frame due", "pymavlink", mavlink
    yield "NMEA 0183", "socket", nmea
    yield "MCAP, JSON (as before)", "mcap", mcap
    yield "MCAP, ROS 2", "mcap", ros2
    yield "Foxglove", "foxglove", foxglove
    yield "Signal K", "websockets", signalk
    yield "stream", "av", stream


@contextmanager
def udp_reader() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        yield int(listener.getsockname()[1])


def reading(frames: Sequence[Frame]) -> tuple[float, float]:
    """Frames per second of a clip read by `Clip` and by OpenCV, which take turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encoder = open_encoder(path, SIZE, 30.0)
        for i in range(300):
            encoder.write(frames[i % len(frames)], i / 30)
        encoder.close()
        rates: dict[str, list[float]] = {"pyav": [], "opencv": []}
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            with Clip(path) as clip:
                count = sum(1 for _ in clip)
            rates["pyav"].append(count / (time.perf_counter() - begun))
            begun = time.perf_counter()
            capture, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
            while capture.read()[0]:
                count += 1
            rates["opencv"].append(count / (time.perf_counter() - begun))
    return statistics.median(rates["pyav"]), statistics.median(rates["opencv"])


def added_latency(frames: Sequence[Frame], labels: np.ndarray) -> Histogram:
    """What the pipeline adds between capture and labels when the engine takes no time."""
    return run(Frames(frames, 150, fps=30.0), labels).latencies.stages()["total"]


if __name__ == "__main__":
    main()
