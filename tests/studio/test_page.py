"""The page in a real browser: Debian's chromium, driven by Playwright."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from il2vseg.base.images import write_image
from il2vseg.data.synthetic import render
from il2vseg.evaluation.clicks import load_clicks
from il2vseg.models.checkpoint import load_checkpoint

from .conftest import write_model

TOKEN = "aye-aye"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def serving(*words: str | Path, kill: bool = False) -> Iterator[str]:
    """The address of a studio, with its token; `kill`: it ends without a chance to write anything."""
    command = [sys.executable, "-m", "il2vseg", *map(str, words), "--token", TOKEN]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.match(r"page: (http://\S+)", line):
                break
        else:
            raise AssertionError(f"no page was served: {said}")
        yield found[1]
    finally:
        if kill:
            process.kill()
        else:
            process.terminate()
        process.communicate()


@contextmanager
def page_at(browser: Any, address: str, size: dict[str, int]) -> Iterator[Any]:
    """A page; whatever it complains of fails the test."""
    phone = size is PHONE
    context = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if "Content Security" in m.text else None)
    page.goto(address)
    page.wait_for_selector("#link.up", state="attached", timeout=60_000)
    yield page
    context.close()
    assert problems == []


def until(page: Any, condition: str, argument: Any = None, seconds: float = 120) -> None:
    """Wait for a condition in the page. Playwright's own waiting evaluates there, which our CSP forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        if time.monotonic() > deadline:
            shown = page.evaluate(
                "[document.getElementById('notice').textContent, state.tasks, state.jobs.train.state]"
            )
            raise AssertionError(
                f"it did not happen within {seconds:g} s: {condition}; the page shows {shown}"
            )
        page.wait_for_timeout(50)


def wide(page: Any) -> bool:
    """Whether the page has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > screen.width + 1"))


def name_by_typing(page: Any, cluster: int, name: str) -> None:
    before = page.evaluate("naming.revision")
    field = page.locator(f"#card-{cluster} input")
    field.fill(name)
    field.press("Enter")
    until(
        page,
        "before => naming.fresh && naming.revision > before && naming.revision === state.revision",
        before,
    )
    assert page.evaluate("k => naming.clusters[k].name", cluster) == name


def frames_are_painted_whole(page: Any, cluster: int) -> None:
    """The next frame shows all its clusters, whatever was pointed at in the one before."""
    # With a finger: cards under a mouse show their own cluster.
    page.mouse.move(1, 1)
    for touched in (page.locator("#view"), page.locator(f"#card-{cluster} .sheet")):
        touched.tap(position={"x": 60, "y": 60})
        until(page, "viewer.solo !== null && !document.getElementById('alone').hidden")
        frame = 0 if page.evaluate("viewer.frame") else 1
        page.locator("#frame").fill(str(frame))
        until(page, "n => viewer.shown === n", frame)
        assert page.evaluate("[viewer.solo, viewer.spot]") == [None, None]
        assert page.locator("#alone").is_hidden()


def what_is_left_is_named(page: Any, cluster: int) -> None:
    """A cluster is divided, and clusters without a name get one until the page says that this was all."""
    before = page.evaluate("naming.clusters.length")
    page.locator(f"#card-{cluster}").get_by_role("button", name="Divide").click()
    until(page, "n => naming.clusters.length === n + 1", before)
    until(page, "document.querySelectorAll('.card.part').length === 2")
    parts = page.locator(".card").evaluate_all("cards => cards.map(c => c.classList.contains('part'))")
    assert parts[parts.index(True) : parts.index(True) + 2] == [True, True]  # side by side
    page.locator("#legend button").filter(has_text="no name yet").click()
    left = page.locator(".card").evaluate_all("cards => cards.map(c => Number(c.id.slice(5)))")
    assert sorted(left) == page.evaluate("naming.clusters.filter(c => c.name === null).map(c => c.id)")
    for done, unnamed in enumerate(left):
        chips = page.locator(f"#card-{unnamed} .chips").inner_text()
        page.locator(f"#card-{unnamed} .chips").get_by_role("button", name="obstacle").click()
        until(page, "n => naming.fresh && document.querySelectorAll('.card').length !== n", len(left) - done)
        if done + 1 < len(left):
            assert page.locator(f"#card-{left[done + 1]} .chips").inner_text() == chips
    assert "All" in page.locator("#named").inner_text()


@pytest.mark.slow
def test_a_checkpoint_is_named_on_a_phone_and_on_a_desk(browser: Any, tmp_path: Path, footage: Path) -> None:
    model = tmp_path / "mine"
    write_model(model)
    words = ("name", "--model", model, "--root", footage, "--serve", "0")
    with serving(*words, kill=True) as address, page_at(browser, address, PHONE) as page:
        until(page, "naming !== null && viewer.ids !== null")
        assert page.locator("nav button").count() == 1
        assert not wide(page)
        cluster = page.evaluate("naming.clusters.reduce((a, b) => (a.share > b.share ? a : b)).id")
        name_by_typing(page, cluster, "water")
        # Point at a pixel: its cluster, and a point of truth.
        page.locator("#view").click(position={"x": 60, "y": 60})
        until(page, "!document.getElementById('spot').hidden")
        at = page.evaluate("clusterAt(viewer.spot.x, viewer.spot.y).id")
        page.locator("#spot .chips").first.get_by_role("button", name="sky").click()
        until(page, "k => naming.clusters[k].name === 'sky'", at)
        page.locator("#spot .chips").last.get_by_role("button", name="land").click()
        until(page, "naming.clicks.points.length === 1")
        frames_are_painted_whole(page, cluster)
        page.screenshot(path=tmp_path / "phone.png")
    clicks = load_clicks(model / "studio" / "clicks.json")
    assert [(c.name, c.asked) for c in clicks] == [("land", False)]
    # The process was killed. On the desk, in two tabs, everything is there.
    with (
        serving(*words) as address,
        page_at(browser, address, DESKTOP) as page,
        page_at(browser, address, DESKTOP) as other,
    ):
        for tab in (page, other):
            until(tab, "naming !== null && viewer.ids !== null")
        assert page.evaluate("k => naming.clusters[k].name", at) == "sky"
        page.locator(f"#card-{at}").get_by_role("button", name="unsure").click()
        until(page, "k => naming.clusters[k].name === 'unsure'", at)
        until(other, "k => naming.clusters[k].name === 'unsure'", at)
        other.evaluate("naming.revision -= 1")  # as if its answer were still under way
        other.locator("#undo").click()
        until(other, "!document.getElementById('notice').hidden")
        assert "elsewhere" in other.locator("#notice").inner_text()
        until(other, "naming.revision === state.revision")
        other.locator("#undo").click()
        until(page, "k => naming.clusters[k].name === 'sky'", at)
        before = page.evaluate("naming.clusters.length")
        # Two presses of one tab, one right after the other, are not two tabs.
        page.evaluate(
            "k => { act({ do: 'name', clusters: [k], name: 'lake' }); act({ do: 'undo' }); }", cluster
        )
        until(page, "naming.fresh && state.named.redo === 1 && naming.revision === state.revision")
        assert page.locator("#notice").is_hidden()
        what_is_left_is_named(page, cluster)
        assert not wide(page)
    named = load_checkpoint(model)
    assert len(named.class_names) == before + 1
    assert named.class_names[at] == "sky"
    assert (model / "names.yaml").exists()


def name_and_distil(page: Any) -> None:
    for cluster in range(4):
        name_by_typing(page, cluster, "water" if cluster % 2 else "sky")
    assert page.evaluate("naming.classes.length") == 2
    page.locator("#named button").click()
    page.locator(".settings[data-job=distill] [name=steps]").fill("2")
    until(page, "document.querySelector('.job[data-job=distill] code').textContent.endsWith('--steps 2')")
    page.locator(".job[data-job=distill] .go").click()
    until(page, "state.jobs.distill.state === 'done'", seconds=300)
    until(page, "!document.querySelector('#step-distill .agreement').hidden")
    assert "of 1 frame that it did not learn from" in page.locator("#step-distill").inner_text()


def export_and_try(page: Any, project: Path) -> None:
    until(page, "step === 'export'")
    page.locator(".job[data-job=export] .go").click()
    until(page, "['done', 'failed'].includes(state.jobs.export.state)", seconds=300)
    until(page, "!document.getElementById('parity').hidden")
    assert "passed" in page.locator("#parity").inner_text()
    assert not wide(page)
    page.locator(".job[data-job=export] .next").click()
    page.locator("#play").click()
    until(
        page,
        "state.trial.classes && document.querySelectorAll('#trial-legend li').length === 2",
        seconds=300,
    )
    until(page, "document.getElementById('trial').naturalWidth > 100")
    # It ends: the last picture stays, with the numbers that belong to it, and the step is done.
    until(page, "state.trial.state === 'done' && stateOf('try') === 'done'")
    until(page, "document.getElementById('trial-legend').innerText.includes('%')")
    assert page.locator("#trial").is_visible()
    assert str(project / "export") in page.locator("#device").inner_text()


def drive(browser: Any, footage: Path, project: Path, size: dict[str, int]) -> None:
    """All six steps on eight frames and a broken one; the studio is killed twice on the way."""
    (footage / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    words = (
        "studio",
        footage,
        "--project",
        project,
        "--backbone",
        "tiny",
        "--method",
        "stego",
        "--serve",
        "0",
    )
    with serving(*words, kill=True) as address, page_at(browser, address, size) as page:
        until(page, "state.footage.kept === 8")
        assert page.locator("#thumbs img").count() == 8
        assert "1 file" in page.locator("#unreadable summary").inner_text()
        page.locator("#footage-next").click()
        page.locator(".settings[data-job=train] [name=clusters]").fill("4")
        page.locator(".settings[data-job=train] [name=steps]").fill("6")
        page.locator(".job[data-job=train] .go").click()
        until(page, "state.jobs.train.state === 'running'")
    # The studio was killed while training ran: it went on, and the next studio shows it.
    with serving(*words, kill=True) as address, page_at(browser, address, size) as page:
        until(page, "state.jobs.train.state === 'done'", seconds=300)
        page.evaluate("open('train')")
        until(page, "state.jobs.train.losses === 6")
        until(page, "document.getElementById('train-picture').naturalWidth > 100")
        page.locator(".job[data-job=train] .next").click()
        until(page, "naming !== null && viewer.ids !== null", seconds=300)
        name_and_distil(page)
    with serving(*words) as address, page_at(browser, address, size) as page:
        export_and_try(page, project)
    manifest = json.loads((project / "export" / "manifest.json").read_text())
    assert sorted(c["name"] for c in manifest["classes"]) == ["sky", "water"]


@pytest.mark.slow
def test_steps_are_asked_for_only_where_the_method_takes_some(
    browser: Any, tmp_path: Path, footage: Path
) -> None:
    project = tmp_path / "project"
    words = ("studio", footage, "--project", project, "--backbone", "tiny", "--serve", "0")
    for method, taken in (("stego", True), ("il2vseg", False)):
        with (
            serving(*words, "--method", method) as address,
            page_at(browser, f"{address}#train", DESKTOP) as page,
        ):
            field = page.locator(".settings[data-job=train] [name=steps]")
            until(page, "no => document.querySelector('[name=steps]').disabled === no", not taken)
            assert page.locator("#no-steps").is_visible() == (not taken)
            if taken:
                field.fill("7")
                command = "document.querySelector('.job[data-job=train] code').textContent"
                until(page, f"{command}.includes('--steps 7')")
                page.evaluate("act({ do: 'start', job: 'train', settings: settings('train') })")
                until(page, "state.jobs.train.state === 'done'", seconds=300)
            else:  # what is kept of the other method is not shown
                assert page.evaluate("state.settings.train.steps") == 7
                assert field.input_value() == ""
                assert page.evaluate("settings('train').steps") is None


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_from_a_folder_to_a_named_export(browser: Any, tmp_path: Path, size: dict[str, int]) -> None:
    footage = tmp_path / "river"
    footage.mkdir()
    for i in range(8):
        write_image(footage / f"scene_{i}.jpg", render(i % 4, 11 * i, (96, 128))[0])
    drive(browser, footage, tmp_path / "project", size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_whole_way_on_real_frames(
    browser: Any, tmp_path: Path, real_data: Path, size: dict[str, int]
) -> None:
    footage = tmp_path / "boat"
    footage.mkdir()
    for file in sorted((real_data / "intcatch" / "train" / "images").iterdir())[::40][:8]:
        shutil.copy(file, footage)
    drive(browser, footage, tmp_path / "project", size)
