"""How fast a run could be: the peak of its devices against what its model needs."""

from __future__ import annotations

import torch

from pretrain_trainer.plan import RunPlan

TERA = 1e12

PEAK_TERAFLOPS = (
    ("B200", 2250.0),
    ("H200 NVL", 835.5),
    ("H200", 989.5),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756.5),
    ("H100", 989.5),
    ("H800 PCIe", 756.5),
    ("H800", 989.5),
    ("H20", 148.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A40", 149.7),
    ("A30", 165.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
)
"""Dense bf16 tensor operations per second of NVIDIA's devices, from its datasheets: what those give "with sparsity" is halved
here. By words of the name that CUDA tells, the first that fits; a GH200 or GB200 is its own case and not guessed at."""


def full_speed(plan: RunPlan, device: torch.device) -> float | None:
    """Tokens per second at which all processes' devices would compute at their peak; None if the peak is not known.

    All devices are taken to be like this process's. training.peakTeraflops is believed before the table.
    """
    peak = plan.job.spec.training.peak_teraflops
    if peak is None and device.type == "cuda":
        peak = peak_of(torch.cuda.get_device_name(device))
    needed = plan.flops_per_token
    if peak is None or needed is None:
        return None
    return plan.batch.world_size * peak * TERA / needed


def peak_of(name: str) -> float | None:
    """The peak in TFLOP/s of a device that CUDA calls so; None if the table does not have it."""
    words = name.replace("-", " ").split()
    for known, peak in PEAK_TERAFLOPS:
        wanted = known.split()
        if all(word in words for word in wanted):
            return peak
    return None
