"""Metrics against slow, obvious float64 references."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from il2vseg.evaluation.metrics import (
    UNASSIGNED,
    BoundaryScore,
    Confusion,
    WaterEdge,
    apply,
    hungarian,
    many_to_one,
    score,
    transfer,
    water_edge,
)


def reference_scores(predicted: np.ndarray, truth: np.ndarray, assignment: list[int], classes: int) -> tuple:
    """Accuracy and mean IoU from the definitions, pixel by pixel."""
    right = total = 0
    inter, union, occurs = [0.0] * classes, [0.0] * classes, [False] * classes
    for k, c in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if c == 255:
            continue
        given_class = assignment[k]
        total += 1
        right += given_class == c
        occurs[c] = True
        for i in range(classes):
            inter[i] += given_class == i and c == i
            union[i] += given_class == i or c == i
    ious = [100 * inter[i] / union[i] for i in range(classes) if occurs[i]]
    return (100 * right / total, sum(ious) / len(ious)) if total else (0.0, 0.0)


@st.composite
def predictions(draw):
    clusters, classes = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    predicted = draw(arrays(np.uint8, shape, elements=st.integers(0, clusters - 1)))
    truth = draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), 255])))
    return predicted, truth, clusters, classes


def every_one_to_one(clusters: int, classes: int) -> list[list[int]]:
    """All ways to give clusters different classes, as many of them as possible."""
    slots = list(range(classes)) + [UNASSIGNED] * max(0, clusters - classes)
    return [list(p) for p in set(itertools.permutations(slots, clusters))]


@given(predictions())
@settings(max_examples=150)
def test_hungarian_scores_equal_brute_force_over_permutations(case) -> None:
    predicted, truth, clusters, classes = case
    confusion = Confusion(clusters, classes)
    confusion.update(predicted, truth)
    found = score(confusion.counts, hungarian(confusion.counts))
    tried = [reference_scores(predicted, truth, a, classes) for a in every_one_to_one(clusters, classes)]
    best = max(accuracy for accuracy, _ in tried)
    assert found.accuracy == pytest.approx(best)
    # Several permutations may share the best accuracy; the score is that of one of them.
    assert any(
        found.miou == pytest.approx(miou) for accuracy, miou in tried if accuracy == pytest.approx(best)
    )


@given(predictions())
@settings(max_examples=80)
def test_many_to_one_is_the_best_of_all_mappings(case) -> None:
    predicted, truth, clusters, classes = case
    confusion = Confusion(clusters, classes)
    confusion.update(predicted, truth)
    found = score(confusion.counts, many_to_one(confusion.counts))
    mappings = itertools.product(range(classes), repeat=clusters)
    best = max(reference_scores(predicted, truth, list(a), classes)[0] for a in mappings)
    assert found.accuracy == pytest.approx(best)
    assert found.accuracy >= score(confusion.counts, hungarian(confusion.counts)).accuracy - 1e-9


def test_one_confusion_for_the_split_is_no_mean_over_images() -> None:
    images = [(np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 0, 0]], np.uint8)),
              (np.array([[1, 0]], np.uint8), np.array([[1, 1]], np.uint8))]  # fmt: skip
    whole = Confusion(2, 2)
    singles = []
    for predicted, truth in images:
        whole.update(predicted, truth)
        one = Confusion(2, 2)
        one.update(predicted, truth)
        singles.append(score(one.counts, hungarian(one.counts)).miou)
    found = score(whole.counts, hungarian(whole.counts)).miou
    assert found == pytest.approx(100 * (3 / 5 + 1 / 3) / 2)
    assert np.mean(singles) != pytest.approx(found)


def test_a_class_without_ground_truth_does_not_count_in_the_mean() -> None:
    confusion = Confusion(3, 3)
    confusion.update(np.array([0, 0, 1, 2], np.uint8), np.array([0, 0, 1, 1], np.uint8))
    found = score(confusion.counts, np.array([0, 1, 2]))
    assert found.per_class_iou == (100.0, 50.0, None)
    assert found.miou == 75.0


def test_ignored_pixels_and_counts_beyond_int32() -> None:
    confusion = Confusion(1, 1)
    confusion.counts[0, 0] = 2**40
    confusion.update(np.zeros(4, np.uint8), np.array([0, 255, 255, 0], np.uint8))
    assert confusion.counts[0, 0] == 2**40 + 2


def test_ids_out_of_range_are_our_bug() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Confusion(2, 2).update(np.array([2], np.uint8), np.array([0], np.uint8))
    with pytest.raises(ValueError, match="shape"):
        Confusion(2, 2).update(np.zeros(2, np.uint8), np.zeros(3, np.uint8))


def test_an_assignment_moves_to_other_classes_by_name() -> None:
    marine, water = ("obstacle", "water", "sky"), ("not water", "water")
    assert transfer([2, 1, 0, UNASSIGNED], marine, water).tolist() == [0, 1, 0, 0]
    assert transfer([1, 0], ("a", "b"), ("b", "c")).tolist() == [0, UNASSIGNED]


def test_clusters_named_unsure_stand_for_no_class_and_their_pixels_are_reported() -> None:
    names = ("unsure", "ignore", "sky")
    given = transfer([0, 1, 2], names, ("not water", "water"))
    assert given.tolist() == [UNASSIGNED, UNASSIGNED, 0]
    found = score(np.array([[5, 0], [0, 10], [35, 50]], np.int64), given)
    assert found.unassigned == pytest.approx(15.0)
    assert found.accuracy == pytest.approx(35.0)
    assert apply(np.array([1, UNASSIGNED]), np.array([0, 1], np.uint8)).tolist() == [1, 254]


def reference_boundary_f(
    predicted: np.ndarray, truth: np.ndarray, class_id: int, tolerance: float
) -> float | None:
    """F of one class's outline, by comparing every pair of outline pixels."""

    def outline(labels: np.ndarray) -> list[tuple[int, int]]:
        height, width = labels.shape
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if labels[y, x] == class_id
            and any(
                0 <= y + dy < height and 0 <= x + dx < width and labels[y + dy, x + dx] != class_id
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
            )
        ]

    def near(one: list, other: list) -> float:
        hits = sum(any((a - c) ** 2 + (b - d) ** 2 <= tolerance**2 for c, d in other) for a, b in one)
        return hits / len(one) if one else 0.0

    mine, true = outline(predicted), outline(truth)
    if not true:
        return None
    p, r = near(mine, true), near(true, mine)
    return 200 * p * r / (p + r) if p + r else 0.0


@given(
    st.integers(3, 9).flatmap(
        lambda n: st.tuples(*(arrays(np.uint8, (n, n + 2), elements=st.integers(0, 2)) for _ in range(2)))
    ),
    st.sampled_from([1.0, 2.0, 5.0]),
)
@settings(max_examples=60)
def test_boundary_f_equals_the_pairwise_definition(pair, tolerance) -> None:
    predicted, truth = pair
    found = BoundaryScore(3, (1, tolerance))
    found.update(predicted, truth)
    for class_id, value in enumerate(found.per_class(tolerance)):
        expected = reference_boundary_f(predicted, truth, class_id, tolerance)
        assert value == (None if expected is None else pytest.approx(expected))


def test_an_ignored_seam_keeps_its_outline_and_an_ignored_area_has_none() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[20:] = 1
    predicted = truth.copy()
    truth[19:22] = 255
    seam = BoundaryScore(2)
    seam.update(predicted, truth)
    assert seam.mean(2) == 100
    truth[:] = 0
    truth[5:35, 5:35] = 255
    area = BoundaryScore(2)
    area.update(predicted, truth)
    # The outline of predicted class 1 runs along row 20; what lies within 2 (5) pixels of a label counts.
    assert area.counts[:, 1, 1].tolist() == [2 * 7, 2 * 10]
    assert area.per_class(2)[1] is None


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 6))))
def test_the_water_edge_is_the_top_of_the_longest_run(water) -> None:
    for x, row in enumerate(water_edge(water).tolist()):
        runs = [(len(list(g)), wet) for wet, g in itertools.groupby(water[:, x].tolist())]
        starts = np.cumsum([0] + [n for n, _ in runs])
        wet = [(n, -start) for (n, is_wet), start in zip(runs, starts, strict=False) if is_wet]
        assert row == (-max(wet)[1] if wet else len(water))


def test_water_edge_error_is_a_root_mean_square_over_all_columns() -> None:
    truth = np.zeros((10, 4), bool)
    truth[4:] = True
    predicted = np.zeros((10, 4), bool)
    predicted[4:, 0] = True
    predicted[7:, 1] = True
    predicted[1:, 2] = True  # and no water at all in the last column
    edge = WaterEdge()
    edge.update(predicted, truth, np.zeros_like(truth))
    assert edge.rmse == pytest.approx(np.sqrt((0 + 9 + 9 + 36) / 4))
    ignored = np.zeros_like(truth)
    ignored[3, 1:] = True
    edge = WaterEdge()
    edge.update(predicted, truth, ignored)
    assert edge.columns == 1
    assert WaterEdge().rmse is None
