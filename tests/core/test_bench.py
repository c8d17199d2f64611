import pytest

from il2vseg.bench import BenchConfig, bench, interleaved


def test_cases_take_turns_after_one_warm_up_each() -> None:
    order: list[str] = []
    medians = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert "".join(order) == "ab" + "abab"
    assert medians.keys() == {"a", "b"}
    assert all(m >= 0 for m in medians.values())


def test_table_has_a_row_for_every_hot_path(capsys: pytest.CaptureFixture[str]) -> None:
    bench(BenchConfig(backbone="tiny", size=(96, 128), num_classes=3, rounds=1, threads=1))
    shown = capsys.readouterr().out
    for name in ("frame, eager", "frame, ONNX Runtime", "low-level branch", "step, il2vseg"):
        assert name in shown
