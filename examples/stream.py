"""Segment a clip, a stream or a camera: python examples/stream.py [SOURCE] [VIDEO]."""

import sys

import il2vseg
from il2vseg.runtime.sinks.jsonl import JsonlSink
from il2vseg.runtime.sinks.video import VideoSink


def main(
    source: str = "synthetic:frames=30", video: str = "overlay.mp4", numbers: str = "frames.jsonl"
) -> int:
    """Write the overlay as a video and the numbers as JSON lines; return how many frames show an obstacle."""
    model = il2vseg.load("marine-lite")
    alarming = 0
    with VideoSink(video) as overlay, JsonlSink(numbers) as records:
        for result in il2vseg.stream(source, model):
            overlay.write(result)
            records.write(result)
            alarming += bool(result.obstacles)
    print(f"{video}, {numbers}: {alarming} frames show an obstacle")
    return alarming


if __name__ == "__main__":
    main(*sys.argv[1:])
