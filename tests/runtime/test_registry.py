"""A sink and a source of one's own, each registered in one place, and used by the command and alone."""

from pathlib import Path

import numpy as np
import pytest

from il2vseg.runtime import sources
from il2vseg.runtime.cli import main
from il2vseg.runtime.result import Result
from il2vseg.runtime.sinks.base import Sink
from il2vseg.runtime.sinks.jsonl import JsonlSink
from il2vseg.runtime.sinks.labels import LabelSink
from il2vseg.runtime.sinks.ring import RingSink
from il2vseg.runtime.sinks.table import SINKS, Row
from il2vseg.runtime.sinks.video import VideoSink
from il2vseg.runtime.sources.base import Captured, Source

from .conftest import SIZE, make_result, needs

OWN = """
from il2vseg.runtime.sinks.base import Sink

class CsvSink(Sink):
    def __init__(self, path):
        self.file = open(path, "w")

    def write(self, result):
        self.file.write(f"{result.name},{result.fractions['sky']:.2f}\\n")

    def close(self):
        self.file.close()
"""


class Grey(Source):
    """`grey:N`: N grey frames."""

    def __init__(self, count: int) -> None:
        self.total, self._index = count, 0

    def read(self) -> Captured | None:
        if self._index == self.total:
            return None
        self._index += 1
        return Captured(np.full((*SIZE, 3), 200, np.uint8), self._index - 1, f"grey {self._index}")


def test_a_sink_of_ones_own_is_one_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_sinks.py").write_text(OWN)
    arguments = ["--model", str(model), "--source", "synthetic:frames=2,size=48x64"]
    assert main([*arguments, "--sink", "own_sinks:CsvSink=o.csv"]) == 0
    names = [line.split(",")[0] for line in Path("o.csv").read_text().splitlines()]
    assert names == ["frame_000000", "frame_000001"]
    for wrong, message in (
        ("own_sinks", "MODULE:CLASS"),
        ("no_such_module:Sink", "No module named"),
        ("own_sinks:Other", "has no attribute"),
        ("pathlib:Path", "must be a class derived from"),
    ):
        assert main([*arguments, "--sink", wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_source_of_ones_own_is_one_row(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sources.SOURCES, "grey:", lambda text, options, report: Grey(int(text[5:])))
    assert [c.name for c in sources.open_source("grey:2")] == ["grey 1", "grey 2"]
    jsonl = tmp_path / "o.jsonl"
    assert main(["--model", str(model), "--source", "grey:3", "--jsonl", str(jsonl)]) == 0
    assert jsonl.read_text().count('"type": "frame"') == 3


def test_a_sink_behind_a_flag_is_one_row(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shout(Sink):
        def write(self, result: Result) -> None:
            print(f"FRAME {result.index}")

    monkeypatch.setitem(SINKS, "window", Row(lambda setup: Shout()))
    arguments = ["--model", str(model), "--source", "synthetic:frames=2,size=48x64", "--window"]
    assert main(arguments) == 0
    assert "FRAME 0\nFRAME 1\n" in capsys.readouterr().out


def test_every_sink_needs_nothing_but_a_result(tmp_path: Path) -> None:
    """What a notebook or a robot does: no pipeline, no configuration."""
    results = [make_result(index=i, rate=10.0) for i in range(3)]
    with (
        LabelSink(str(tmp_path / "labels")) as labels,
        JsonlSink(str(tmp_path / "o.jsonl")) as jsonl,
        VideoSink(str(tmp_path / "o.avi")) as video,
        RingSink(str(tmp_path / "alarms")) as ring,
    ):
        for result in results:
            for sink in (labels, jsonl, video, ring):
                sink.write(result)
    assert len(list((tmp_path / "labels").iterdir())) == 3
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "o.avi").stat().st_size > 1000
    assert not list((tmp_path / "alarms").iterdir())


def test_the_web_page_needs_nothing_but_a_result() -> None:
    needs("uvicorn", "web")
    import json
    from urllib.request import urlopen

    from il2vseg.runtime.web.server import WebSink

    with WebSink("0") as web:
        web.write(make_result())
        with urlopen(f"{web.url}api/status", timeout=10) as answer:
            status = json.load(answer)
    assert [c["name"] for c in status["classes"]] == ["obstacle", "water", "sky"]
    assert status["frames"] == 1
