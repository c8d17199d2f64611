from functools import partial

import pytest

from il2vseg import bench as module
from il2vseg.bench import BenchConfig, bench, interleaved, loss_shares, uncached_step


def test_cases_take_turns_after_one_warm_up_each(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    now = 0.0

    def case(name: str) -> None:
        nonlocal now
        order.append(name)
        now += 1.0

    monkeypatch.setattr("time.perf_counter", lambda: now)
    medians = interleaved({name: partial(case, name) for name in "ab"}, rounds=2)
    assert "".join(order) == "ab" + "abab"
    assert medians.keys() == {"a", "b"}
    assert list(medians.values()) == pytest.approx([1e3] * 2)


def test_a_quick_case_fills_its_turn_and_its_time_is_that_of_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def case() -> None:
        nonlocal now
        now += module.TURN / 4

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert interleaved({"quick": case}, rounds=1) == {"quick": pytest.approx(1e3 * module.TURN / 4)}
    assert now == pytest.approx((1 + 4) * module.TURN / 4)  # the first call warms up


def test_a_loss_takes_what_the_step_saves_without_it() -> None:
    medians = {
        module.WHOLE: 100.0,
        module.NO_CORR: 70.0,
        module.NO_EIGEN: 80.0,
        module.NO_FUSED: 95.0,
        module.NO_BRANCH: 60.0,
    }
    shares = loss_shares(medians)
    assert list(shares.values()) == [30.0, 20.0, 5.0, 15.0, 30.0]
    assert uncached_step(medians, 10.0) == 100.0 + 2 * 16 * 10.0


def test_table_has_a_row_for_every_hot_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "coco_memory", lambda: {"ViT-S/8, batch 32": 0.25})
    bench(BenchConfig(backbone="tiny", size=(64, 96), num_classes=3, rounds=1, threads=1))
    shown = capsys.readouterr().out
    for name in (
        "frame, eager",
        "frame, ONNX Runtime",
        "low-level branch",
        "step, joint",
        "L_fs + L_reg",
        "0.25",
    ):
        assert name in shown
