"""The settings of il2vseg-run: flags and YAML alike."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from il2vseg.base.command import IGNORE_MASK_HELP, MAX_COUNT, MAX_SIDE, MAX_THREADS, Settings, flag
from il2vseg.base.errors import UserError
from il2vseg.base.mounting import camera_height_flag, check_mounting, danger_zone_flag, fov_flag, pitch_flag

MAX_SECONDS = 10**6
LINK_HELP = "udp:HOST:PORT, udpin:[HOST:]PORT, tcp:HOST:PORT or serial:DEVICE:BAUD"


@dataclass
class RunConfig(Settings):
    """Segment cameras, clips, folders of images or streams, frame by frame."""

    source: tuple[str, ...] | None = flag(
        None,
        "image, clip, folder, pattern, address (rtsp, http, udp, tcp), gst:PIPELINE or synthetic:; "
        "several run at once, source N writes into folders N",
        metavar="FILE|DIR|URL",
    )
    camera: tuple[str, ...] | None = flag(None, "camera by index or /dev path, or several", metavar="N")
    model: Path | None = flag(
        None, "exported model; default: the newest under runs/, else the bundled one", metavar="DIR"
    )
    list_models: bool = flag(False, "list the available models and exit")
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = flag(
        "auto", "which runtime runs the model; auto: the first that works here, GPUs before CPUs"
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = flag("auto", "which file of the model")
    verbose: bool = flag(False, "also print why other providers do not run")
    threads: int | None = flag(
        None, "threads of the engine; default: one per core", low=1, high=MAX_THREADS, metavar="N"
    )
    save_video: Path | None = flag(None, "write the overlay as a video", metavar="FILE")
    save_labels: Path | None = flag(None, "write a PNG of class ids for every frame", metavar="DIR")
    jsonl: Path | None = flag(None, "write one JSON object per frame; - is standard output", metavar="FILE|-")
    segment: float | None = flag(
        None,
        "begin a new video after so many seconds; its name must then hold a time such as %Y%m%d-%H%M%S",
        low=1,
        high=MAX_SECONDS,
        metavar="SECONDS",
    )
    alarm_clips: Path | None = flag(
        None, "save a clip of the seconds around every alarm to this folder", metavar="DIR"
    )
    pre_roll: float = flag(10.0, "seconds before an alarm in its clip", low=0, high=3600, metavar="SECONDS")
    post_roll: float = flag(5.0, "seconds after an alarm in its clip", low=0, high=3600, metavar="SECONDS")
    mcap: Path | None = flag(None, "write pictures and numbers for Foxglove", metavar="FILE")
    mcap_schema: Literal["json", "ros2"] = flag(
        "json", "what --mcap writes: JSON of Foxglove, or messages of ROS 2"
    )
    foxglove: str | None = flag(
        None,
        "serve messages of ROS 2 to Foxglove at this address; by default to this machine only",
        metavar="[HOST:]PORT",
    )
    ros2: bool = flag(False, "publish messages of ROS 2, where rclpy is installed")
    mqtt: str | None = flag(None, "publish the numbers: mqtt://HOST[:PORT][/PREFIX]", metavar="URL")
    mavlink: str | None = flag(
        None,
        f"tell an autopilot of obstacles and alarms: {LINK_HELP}",
        metavar="ADDRESS",
    )
    mavlink_range: float = flag(
        100.0, "farthest distance that the autopilot is told", low=1, high=650, metavar="METRES"
    )
    mavlink_distance_sensor: bool = flag(False, "also send the autopilot the distance straight ahead")
    nmea: str | None = flag(
        None, f"tell a chart plotter of obstacles and alarms: {LINK_HELP}", metavar="ADDRESS"
    )
    signalk: str | None = flag(
        None,
        "tell a Signal K server of obstacles and alarms; NAME names the camera there",
        metavar="ws://HOST[:PORT][/NAME]",
    )
    signalk_token: Path | None = flag(
        None,
        "file with a token for that server; default: $IL2VSEG_SIGNALK_TOKEN, else access is requested",
        metavar="FILE",
    )
    stream: str | None = flag(
        None,
        "send the overlay to a server of yours: rtsp://, srt://, rtmp:// or udp:// (MPEG-TS)",
        metavar="URL",
    )
    stream_bitrate: float = flag(
        2.0, "most megabits per second of --stream", low=0.05, high=200, metavar="MEGABITS"
    )
    disk_quota: float | None = flag(
        None,
        "delete the oldest recordings when they take more than this",
        above=0,
        high=10**6,
        metavar="GIGABYTES",
    )
    serve: str | None = flag(
        None,
        "serve a web page at this address; by default only this machine can open it",
        metavar="[HOST:]PORT",
    )
    token: str | None = flag(
        None, "password of the page; default: a random one, none if only this machine is served"
    )
    allow_host: tuple[str, ...] | None = flag(
        None, "other host names under which the page may be opened", metavar="NAME"
    )
    window: bool = flag(False, "show the overlay in a window")
    sink: tuple[str, ...] | None = flag(
        None,
        "write to sinks of your own, classes of Python; see docs/runtime.md",
        metavar="MODULE:CLASS[=TARGET]",
    )
    max_frames: int | None = flag(None, "stop after so many frames", low=1, high=MAX_COUNT, metavar="N")
    benchmark: bool = flag(False, "print latencies by stage at the end")
    opacity: float = flag(0.45, "opacity of the colours in the overlay", low=0, high=1)
    stabilise: Literal["off", "ema", "flow"] = flag(
        "off", "average the scores over time: ema in place, flow along the optical flow"
    )
    smoothing: float = flag(0.7, "weight of the past in --stabilise", low=0, below=1)
    marine: bool = flag(
        True, "find water edge, horizon and obstacles, if the model has the classes water and obstacle"
    )
    camera_height: float | None = camera_height_flag()
    fov: float | None = fov_flag("bearings")
    pitch: float | None = pitch_flag()
    camera_yaw: float = flag(
        0.0,
        "direction of the camera, degrees to starboard of the bow, for what the boat is told",
        low=-180,
        high=180,
        metavar="DEGREES",
    )
    danger_zone: float | None = danger_zone_flag("raise an alarm for obstacles nearer than this")
    ignore_mask: str | None = flag(
        None, f"{IGNORE_MASK_HELP}; of frames that are turned and cropped", metavar="FILE|POLYGON"
    )
    capture_size: tuple[int, int] | None = flag(
        None, "height and width to request from the camera", low=1, high=MAX_SIDE, metavar="PIXELS"
    )
    capture_fps: float | None = flag(
        None, "frame rate to request from the camera", above=0, high=1000, metavar="FPS"
    )
    capture_codec: str | None = flag(None, "codec to request from the camera, such as MJPG", metavar="CODE")
    undistort: Path | None = flag(None, "straighten frames with this calibration of OpenCV", metavar="FILE")
    rotate: Literal[0, 90, 180, 270] = flag(0, "degrees to turn frames clockwise")
    crop: tuple[int, int, int, int] | None = flag(
        None,
        "x, y, width and height to cut from the turned frame",
        low=0,
        high=MAX_SIDE,
        metavar="PIXELS",
    )
    freeze_after: float = flag(
        5.0,
        "reopen a live source after so many seconds without a new frame",
        low=0.1,
        high=MAX_SECONDS,
    )
    realtime: bool = flag(False, "replay a recording at its own pace, as a camera would show it")
    loop: bool = flag(False, "begin a recording again at its end, until stopped")
    wait_for_source: bool = flag(False, "keep trying if the camera or stream does not answer at the start")
    config: Path | None = flag(None, "YAML file of these settings; flags win", metavar="FILE.yaml")
    print_config: bool = flag(False, "print the settings as YAML and exit")


def check(config: RunConfig) -> None:
    """Refuse settings that do not go together, before anything slow starts.

    Raises:
        UserError: no source or two, or a flag without the one that it needs.
    """
    if (config.source is None) == (config.camera is None):
        raise UserError("pass --source FILE|DIR|URL or --camera N (and not both)")
    if len(targets(config)) > 1 and str(config.jsonl) == "-":
        raise UserError("--jsonl -: one source only; name a file, source N writes N/FILE beside it")
    for name in ("mavlink", "nmea", "ros2", "stream"):
        if len(targets(config)) > 1 and getattr(config, name):
            raise UserError(f"--{name}: one source only; start one il2vseg-run for each")
    if config.alarm_clips is not None and config.danger_zone is None:
        raise UserError("--alarm-clips needs --danger-zone: nothing else raises an alarm")
    check_mounting(config.camera_height, config.fov, config.danger_zone)


def targets(config: RunConfig) -> tuple[str, ...]:
    """The sources, or cameras, of a configuration."""
    return config.source or config.camera or ()


def addresses(config: RunConfig) -> tuple[str, ...]:
    """What may hold a secret: the addresses of a configuration."""
    return (*targets(config), *filter(None, (config.mqtt, config.signalk, config.stream)))


def streams(config: RunConfig) -> list[RunConfig]:
    """One configuration per source.

    Of several, source N writes into folders N: `rec/overlay.mp4` becomes `rec/N/overlay.mp4`, `labels`
    becomes `labels/N`. Its page has the N-th port after the given one, its MQTT topics are below PREFIX/N,
    its camera on a Signal K server is called N, and it has its share of the disk quota.
    """
    several = targets(config)
    if len(several) == 1:
        return [config]
    return [_numbered(config, number) for number in range(len(several))]


def _numbered(config: RunConfig, number: int) -> RunConfig:
    def file(path: Path | None) -> Path | None:
        return path and path.parent / str(number) / path.name

    def folder(path: Path | None) -> Path | None:
        return path and path / str(number)

    def own(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return values and values[number : number + 1]

    def next_port(address: str | None) -> str | None:
        host, colon, port = (address or "").rpartition(":")
        return f"{host}{colon}{int(port) + number}" if port.isdigit() else address

    return replace(
        config,
        source=own(config.source),
        camera=own(config.camera),
        save_video=file(config.save_video),
        save_labels=folder(config.save_labels),
        jsonl=file(config.jsonl),
        alarm_clips=folder(config.alarm_clips),
        mcap=file(config.mcap),
        mqtt=config.mqtt and f"{config.mqtt.rstrip('/')}/{number}",
        signalk=config.signalk and f"{config.signalk.rstrip('/')}/{number}",
        disk_quota=config.disk_quota and config.disk_quota / len(targets(config)),
        serve=next_port(config.serve),
        foxglove=next_port(config.foxglove),
    )
