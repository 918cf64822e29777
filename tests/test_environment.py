"""What is recorded of the machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from bench.system import environment

X86 = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Intel(R) Xeon(R)\n\nprocessor\t: 1\nmodel\t\t: 9\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize(
    ("text", "words"), [(X86, ", Intel(R) Xeon(R), cpu family 6, model 143"), (ARM, ", CPU implementer 0x41, CPU part 0xd0c"), ("", "")]
)
def test_a_cpu_is_recorded_with_the_model_of_the_processor(text: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_processor", environment._processor.__wrapped__)
    monkeypatch.setattr(platform, "machine", lambda: "some")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert environment.describe(torch.device("cpu"), {}, {})["device"] == f"cpu some{words}"
