"""What was decided while naming: steps, undo, clicks; and the score of clicks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from il2vseg.base.errors import UserError
from il2vseg.evaluation.clicks import (
    Agreement,
    Click,
    agreement,
    doubts,
    frames_of,
    load_clicks,
    save_clicks,
    wilson,
)
from il2vseg.export.tools.proposals import crossed, proposals
from il2vseg.studio.session import Naming, Session, decode, encode

START = Naming(("class 0", "class 1", "class 2"), np.eye(3, 4, dtype=np.float32), (None,) * 3)
PARTS = encode(np.array([[0, 0, 0, 1], [1, 1, 0, 0]], np.float32))

STEPS = st.lists(
    st.one_of(
        st.builds(
            lambda k, n: {"do": "name", "clusters": [k], "name": n},
            st.integers(0, 2),
            st.sampled_from(["water", "sky", None]),
        ),
        st.builds(lambda k: {"do": "divide", "cluster": k, "prototypes": PARTS}, st.integers(0, 2)),
        st.builds(lambda x: {"do": "click", "frame": "a", "x": x, "y": 0.5, "name": "sky"}, st.floats(0, 1)),
    ),
    max_size=6,
)


def same(a: Naming, b: Naming) -> bool:
    return (a.names, a.parents, a.clicks) == (b.names, b.parents, b.clicks) and np.array_equal(
        a.prototypes, b.prototypes
    )


@given(STEPS)
def test_undo_leads_back_through_every_state_and_redo_forth(steps: list[dict[str, object]]) -> None:
    sessions = [Session(START)]
    for step in steps:
        sessions.append(sessions[-1].doing(step))
    session = sessions[-1]
    for earlier in reversed(sessions[:-1]):
        session = session.undo()
        assert same(session.naming, earlier.naming)
    for _ in steps:
        session = session.redo()
    assert same(session.naming, sessions[-1].naming)


@given(STEPS, st.integers(0, 3))
def test_a_session_survives_its_file(steps: list[dict[str, object]], undone: int) -> None:
    session = Session(START)
    for step in steps:
        session = session.doing(step)
    for _ in range(min(undone, len(steps))):
        session = session.undo()
    again = Session.of(json.loads(json.dumps(session.to_dict())))
    assert same(again.naming, session.naming)
    assert again.undone == session.undone


def test_a_divided_cluster_keeps_its_number_and_its_name() -> None:
    session = Session(START).doing({"do": "name", "clusters": [1], "name": "water"})
    naming = session.doing({"do": "divide", "cluster": 1, "prototypes": PARTS}).naming
    assert naming.names == ("class 0", "water", "class 2", "water")
    assert naming.parents == (None, None, None, 1)
    assert naming.prototypes[[1, 3]].tolist() == decode(PARTS).tolist()


@pytest.mark.parametrize(
    "step",
    [
        {"do": "name", "clusters": [3], "name": "water"},
        {"do": "name", "clusters": [-1], "name": "water"},
        {"do": "name", "clusters": [True], "name": "water"},
        {"do": "name", "clusters": [], "name": "water"},
        {"do": "name", "clusters": [0], "name": "  "},
        {"do": "name", "clusters": [0], "name": "x" * 41},
        {"do": "name", "clusters": [0], "name": "a\x00b"},
        {"do": "click", "frame": "a", "x": 1.5, "y": 0, "name": "water"},
        {"do": "click", "frame": "a", "x": 0.5, "y": float("nan"), "name": "water"},
        {"do": "click", "frame": "a", "x": 0.5, "y": 0, "name": ""},
        {"do": "unclick", "index": 0},
        {"do": "accept", "names": {"7": "water"}},
        {"do": "accept", "names": {"water": "water"}},
        {"do": "rm"},
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Session(START).doing(step)


def test_there_is_an_end_to_undo() -> None:
    with pytest.raises(UserError, match="nothing to undo"):
        Session(START).undo()
    with pytest.raises(UserError, match="nothing to redo"):
        Session(START).doing({"do": "name", "clusters": [0], "name": "sky"}).undo().redo().redo()


def test_a_new_step_ends_what_could_be_redone() -> None:
    session = Session(START).doing({"do": "name", "clusters": [0], "name": "sky"}).undo()
    assert not session.doing({"do": "name", "clusters": [1], "name": "sea"}).undone


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 0, 0.0, 1.0), (10, 10, 0.722, 1.0), (0, 10, 0.0, 0.278), (18, 20, 0.699, 0.972)],
)
def test_the_interval_is_that_of_wilson(right: int, count: int, low: float, high: float) -> None:
    # Values of the textbook's table (Wilson 1927, 95 %).
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-3)


CLICKS = (
    Click("a", 0.1, 0.1, "water", asked=True),
    Click("a", 0.2, 0.1, "sky", asked=True),
    Click("b/000001", 0.5, 0.5, "water"),
    Click("b/000001", 0.9, 0.5, "land"),
    Click("gone", 0.9, 0.5, "land", asked=True),
)


def test_only_points_drawn_at_random_make_the_score() -> None:
    said = ["water", "water", "sky", "land", None]
    assert agreement(CLICKS, said, asked=True) == Agreement(1, 2)
    assert agreement(CLICKS, said, asked=False) == Agreement(1, 2)
    assert str(Agreement(1, 2)) == "1 of 2 (9 to 91 %)"


def test_mixed_clusters_come_before_misnamed_ones() -> None:
    found = doubts(CLICKS, [0, 1, 1, 1, None], ["sky", "sky"])
    assert [(d.cluster, d.mixed, d.wrong) for d in found] == [(1, 2, 2), (0, 0, 1)]
    assert found[0].advice == "divide it: 1 sky, 1 water, 1 land"
    assert found[1].advice == "name it water"
    assert doubts(CLICKS[:1], [0], ["water"]) == []


def test_clicks_survive_their_file_and_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clicks.json"
    save_clicks(path, CLICKS)
    assert load_clicks(path) == CLICKS
    for text in ("{}", "[1]", '[{"frame": "a", "x": 2, "y": 0, "name": "sky"}]', "no"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"clicks\.json"):
            load_clicks(path)


def test_a_click_at_the_edge_lies_in_the_picture() -> None:
    assert Click("a", 1.0, 1.0, "sky").pixel((4, 6)) == (3, 5)
    assert Click("a", 0.5, 0.25, "sky").pixel((4, 6)) == (1, 3)


def test_only_the_images_and_clips_of_clicks_are_read() -> None:
    import re

    pattern = re.compile(frames_of(CLICKS))
    assert [bool(pattern.match(name)) for name in ("a", "b", "ab", "gone", "c")] == [
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_proposal_is_what_the_other_model_says_most() -> None:
    own = np.array([[0, 0, 1, 2, 255]], np.uint8)
    other = np.array([[0, 0, 0, 2, 1]], np.uint8)
    counts = crossed(own, other, 4, 3)
    assert counts.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    found = proposals([[6, 2, 0], [0, 0, 0], [0, 1, 9], [0, 0, 5]], ("water", "sky", "unsure"))
    assert [(p.name, p.agreement) if p else None for p in found] == [
        ("water", 0.75), None, ("sky", 0.1), None,
    ]  # fmt: skip
