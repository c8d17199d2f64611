"""Recordings: every frame at its own time, and an account of what was not read."""

import gc
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from il2vseg.base.errors import UserError
from il2vseg.base.media.clips import Clip, Picture, count_frames
from tests.footage import Events, cut, number_of, numbered, rotated, write_clip


def read(path: Path) -> tuple[list[Picture], Clip, Events]:
    """Read a clip; an error at its end, when nothing could be read, is an event like the others."""
    events = Events()
    pictures: list[Picture] = []
    with Clip(path, events) as clip:
        try:
            pictures.extend(clip)
        except UserError as error:
            events("nothing", str(error))
    return pictures, clip, events


def accounted(clip: Clip) -> int:
    return clip.read + clip.lost


CODECS = [
    ("libx264", "yuv420p", ".mp4"),
    ("libx265", "yuv420p10le", ".mp4"),
    ("libsvtav1", "yuv420p", ".mkv"),
    ("libvpx-vp9", "yuv420p", ".webm"),
    ("libvpx", "yuv420p", ".webm"),
    ("mjpeg", "yuvj420p", ".avi"),
    ("mpeg4", "yuv420p", ".avi"),
    ("mpeg2video", "yuv420p", ".ts"),
    ("ffv1", "yuv422p10le", ".mkv"),
    ("libx264", "yuv420p", ".flv"),
    ("mpeg2video", "yuv420p", ".mpg"),
]


@pytest.mark.parametrize(("codec", "pix_fmt", "suffix"), CODECS)
def test_every_frame_of_every_codec_comes_in_order_at_its_time(
    tmp_path: Path, codec: str, pix_fmt: str, suffix: str
) -> None:
    rate = 25 if codec == "mpeg2video" else 10
    path = write_clip(tmp_path / f"a{suffix}", codec=codec, pix_fmt=pix_fmt, fps=rate)
    pictures, clip, events = read(path)
    assert [number_of(p.frame) for p in pictures] == list(range(12))
    assert [p.number for p in pictures] == list(range(12))
    np.testing.assert_allclose([p.seconds for p in pictures], np.arange(12) / rate, atol=0.02)
    assert events.all == []
    assert (clip.read, clip.lost, clip.damaged) == (12, 0, 0)
    assert count_frames(path) == 12


def test_times_of_variable_rate_are_kept(tmp_path: Path) -> None:
    times = [0, 0.1, 0.15, 2.0, 2.05, 9.0, 9.5, 9.6]
    pictures, _, events = read(write_clip(tmp_path / "a.mkv", 8, times=times))
    np.testing.assert_allclose([p.seconds for p in pictures], times, atol=0.002)
    assert events.all == []


def test_a_clip_that_begins_late_on_its_own_clock_begins_at_zero(tmp_path: Path) -> None:
    times = [100 + 0.1 * i for i in range(6)]
    pictures, _, _ = read(write_clip(tmp_path / "a.ts", 6, times=times))
    np.testing.assert_allclose([p.seconds for p in pictures], np.arange(6) / 10, atol=0.002)


def test_times_never_go_back_where_two_recordings_were_joined(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "one.ts", 6, codec="mpeg2video", fps=25)
    (tmp_path / "two.ts").write_bytes(one.read_bytes() * 2)
    seconds = [p.seconds for p in read(tmp_path / "two.ts")[0]]
    assert len(seconds) >= 11
    assert all(b > a for a, b in pairwise(seconds))


def test_long_pauses_between_frames_do_not_end_a_clip(tmp_path: Path) -> None:
    # Telemetry or sound goes on while the picture stands: thousands of packets of other tracks in a row.
    path = tmp_path / "sparse.mkv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=10)
        video.height, video.width, video.pix_fmt = 90, 160, "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        for index in range(3):
            picture = av.VideoFrame.from_ndarray(numbered(index), format="bgr24")
            picture.pts = 10 * 20 * index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for index in range(10_000):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 40), np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts = 8000, 40 * index
            container.mux(sound.encode(block))
    pictures, _, events = read(path)
    assert [round(p.seconds) for p in pictures] == [0, 20, 40]
    assert events.all == []


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_held_upright_gives_upright_frames(tmp_path: Path, degrees: int) -> None:
    upright = read(write_clip(tmp_path / "a.mp4", 1))[0][0].frame
    turned = read(rotated(write_clip(tmp_path / "b.mp4", 1), degrees))[0][0].frame
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90))


@pytest.mark.parametrize("full", [False, True])
def test_full_and_limited_range_give_the_same_picture(tmp_path: Path, full: bool) -> None:
    codec, pix_fmt = ("mjpeg", "yuvj444p") if full else ("ffv1", "yuv444p")
    frame = read(write_clip(tmp_path / "a.mkv", 3, codec=codec, pix_fmt=pix_fmt))[0][0].frame
    assert np.abs(frame[30:60].astype(int) - numbered(0)[30:60]).max() <= 4


@pytest.mark.parametrize("size", [(16, 16), (90, 161), (2160, 3840)])
def test_tiny_odd_and_huge_frames_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    pictures, _, events = read(
        write_clip(tmp_path / "a.avi", 2, codec="mjpeg", pix_fmt="yuvj444p", size=size)
    )
    assert [p.frame.shape for p in pictures] == [(*size, 3)] * 2
    assert events.all == []


def test_a_sixteen_bit_clip_of_twelve_bits_is_as_bright_as_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 90, 160, "gray16le"
        for _ in range(2):
            deep = np.linspace(0, 4095, 160).astype(np.uint16)[None].repeat(90, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(deep, format="gray16le")))
        container.mux(stream.encode(None))
    frame = read(path)[0][0].frame
    assert frame.max() == 255
    assert abs(int(frame[0, 80, 0]) - 128) <= 1


def test_an_interlaced_clip_gives_every_frame_once(tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme", "top": "1"}
    pictures, clip, events = read(
        write_clip(tmp_path / "a.ts", codec="mpeg2video", fps=25, size=(96, 160), options=options)
    )
    assert len(pictures) == accounted(clip) == 12
    assert events.all == []


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mov", "mjpeg"), (".avi", "mpeg4")])
def test_a_clip_that_was_cut_off_says_how_many_frames_are_missing(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    fast = {"movflags": "faststart"} if suffix != ".avi" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_clip(tmp_path / f"a{suffix}", codec=codec, pix_fmt=pix_fmt, container_options=fast)
    pictures, clip, events = read(cut(whole, 0.7))
    assert 0 < len(pictures) < 12
    assert clip.promised == accounted(clip) == 12
    assert "clip_truncated" in events.kinds
    (missing,) = [data["missing"] for kind, data in events.all if kind == "clip_truncated"]
    assert missing > 0


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_container_without_a_count_that_was_cut_off_is_reported(tmp_path: Path, suffix: str) -> None:
    codec = "libx264" if suffix == ".mkv" else "libvpx-vp9"
    _, _, events = read(cut(write_clip(tmp_path / f"a{suffix}", codec=codec), 0.7))
    assert "clip_truncated" in events.kinds


def test_a_fragmented_recording_that_was_cut_off_is_reported(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    whole = write_clip(tmp_path / "a.mp4", container_options=options)
    assert read(whole)[2].all == []
    pictures, _, events = read(cut(whole, 0.8))
    assert pictures
    assert "clip_truncated" in events.kinds


def test_a_clip_without_one_frame_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", container_options={"movflags": "faststart"})
    head = whole.read_bytes().index(b"mdat") + 4
    whole.write_bytes(whole.read_bytes()[:head])
    pictures, clip, events = read(whole)
    assert pictures == []
    assert clip.lost == 12
    assert events.kinds[-1] == "nothing"
    assert "a.mp4" in str(events.all[0])


def test_a_hole_in_the_middle_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", 18, gop=6, container_options={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    start = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[start : start + 400] = bytes(400)
    whole.write_bytes(data)
    pictures, clip, events = read(whole)
    assert accounted(clip) == 18
    assert events.all != []
    assert number_of(pictures[-1].frame) == 17
    numbers = [p.number for p in pictures]
    assert numbers == sorted(set(numbers))
    assert clip.lost + clip.damaged > 0


def test_only_wanted_frames_are_yielded(tmp_path: Path) -> None:
    with Clip(write_clip(tmp_path / "a.mp4")) as clip:
        found = [(p.number, number_of(p.frame)) for p in clip.pictures([1, 7, 8])]
    assert found == [(1, 1), (7, 7), (8, 8)]


@pytest.mark.parametrize(
    "name",
    [
        b"caf\xe9.mp4",
        b"2026-11-27T12:30:05.mp4",
        b"100%d [a] #1?.mp4",
        b"\xe6\xb5\xb7 \xf0\x9f\x9a\xa4.mp4",
        b"a\nb.mp4",
    ],
)
def test_a_name_may_have_any_character_and_any_encoding(
    tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    path.write_bytes(write_clip(tmp_path / "whole.mp4").read_bytes())
    assert len(read(path)[0]) == 12


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_heic_and_avif_are_refused_by_name_whatever_they_are_called(tmp_path: Path, brand: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\x00\x00\x00\x1cftyp" + brand + bytes(100))
    with pytest.raises(UserError, match="images are not supported"):
        Clip(path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_what_is_no_clip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.mp4: not a readable clip"):
        Clip(tmp_path / "a.mp4")
    assert count_frames(tmp_path / "a.mp4") == 0


def test_sound_with_cover_art_is_no_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts = 8000, 0
        container.mux(sound.encode(block))
    with pytest.raises(UserError, match="no video"):
        Clip(path)


def test_the_date_of_a_recording_is_known_where_it_is_written(tmp_path: Path) -> None:
    dated = write_clip(tmp_path / "a.mp4", 3, metadata={"creation_time": "2026-05-04T03:02:01.000000Z"})
    with Clip(dated) as clip:
        assert clip.recorded == 1777863721.0
    with Clip(write_clip(tmp_path / "b.mp4", 3)) as clip:
        assert clip.recorded is None


def test_frames_that_an_edit_list_leaves_out_are_not_missed(tmp_path: Path) -> None:
    # As a phone trims: the index holds 12 frames, the edit list shows the last 6 of them.
    path = write_clip(tmp_path / "a.mp4", 12, gop=12, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    elst = data.index(b"elst")
    timescale_at = data.index(b"mdhd") + 4 + 12
    timescale = int.from_bytes(data[timescale_at : timescale_at + 4], "big")
    media_time = elst + 4 + 4 + 4 + 4
    start = int.from_bytes(data[media_time : media_time + 4], "big")
    data[media_time : media_time + 4] = (start + round(0.6 * timescale)).to_bytes(4, "big")
    path.write_bytes(data)
    pictures, clip, events = read(path)
    assert [number_of(p.frame) for p in pictures] == list(range(6, 12))
    assert clip.promised == 6
    assert "clip_truncated" not in events.kinds


def test_frames_that_a_transport_stream_lost_are_reported(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.ts", codec="mpeg2video", fps=25)
    data = bytearray(whole.read_bytes())
    packets = len(data) // 188
    for first, name in ((packets // 2, "middle.ts"), (packets - 6, "end.ts")):
        holed = bytearray(data)
        holed[first * 188 : (first + 5) * 188] = bytes(5 * 188)
        (tmp_path / name).write_bytes(holed)
        assert read(tmp_path / name)[2].all != []


def test_a_pause_in_even_footage_without_a_count_is_reported(tmp_path: Path) -> None:
    times = [0.1 * i for i in range(6)] + [0.1 * i for i in range(10, 14)]
    _, clip, events = read(write_clip(tmp_path / "a.mkv", 10, times=times, fps=10))
    assert [(k, d["frames"]) for k, d in events.all] == [("clip_gap", 4)]
    assert clip.lost == 0


def test_frames_that_were_read_are_let_go(tmp_path: Path) -> None:
    """Frames that wait for the garbage collector make reading slow, and memory grow with every clip."""
    path = write_clip(tmp_path / "clip.mp4", 20)
    gc.collect()
    gc.disable()
    try:
        with Clip(path) as clip:
            assert sum(1 for _ in clip) == 20
        kept = sum(type(o).__name__ == "VideoFrame" for o in gc.get_objects())
    finally:
        gc.enable()
    assert kept <= 3
