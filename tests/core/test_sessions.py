"""Threads of ONNX Runtime wait awake for a moment, where the runtime knows moments."""

import pytest

from il2vseg.base.sessions import spinning


@pytest.mark.parametrize("version", ["1.20.1", "1.26.0"])
def test_threads_sleep_where_they_would_spin_for_long(version: str) -> None:
    assert spinning(version) == {"allow_spinning": "0"}


@pytest.mark.parametrize("version", ["1.27.0", "1.32.0", "2.0.0", "1.30.0rc1"])
def test_threads_wait_awake_for_a_tenth_of_a_millisecond(version: str) -> None:
    assert spinning(version) == {"spin_duration_us": "100"}
