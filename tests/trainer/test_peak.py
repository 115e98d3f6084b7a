"""Model FLOPs utilization: what a model needs, what a device could."""

from __future__ import annotations

import pytest
from pretrain_trainer.config.presets import PRESETS
from pretrain_trainer.peak import peak_of


def test_the_operations_of_a_token_are_palms() -> None:
    """Chowdhery et al. 2022, appendix B, with the sizes of Llama 2 7B: 6 N + 12 L H Q T. Looking up an embedding is none."""
    shape = PRESETS["llama2-7b"]
    weights = shape.parameters(32_000) - 32_000 * 4096
    assert weights == 6_607_343_616
    assert shape.flops_per_token(32_000, 4096) == 6 * weights + 12 * 32 * 32 * 128 * 4096


def test_a_tied_embedding_is_multiplied_with_at_the_output() -> None:
    shape = PRESETS["tiny"]
    assert shape.flops_per_token(1024, 128) == 6 * shape.parameters(1024) + 12 * 4 * 8 * 32 * 128


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("Tesla T4", None),
    ],
)
def test_a_device_is_known_by_its_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak
