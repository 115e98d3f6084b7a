"""Which weights each optimizer takes, and what the weights themselves add to the loss."""

from __future__ import annotations

import pytest
import torch
from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.config.sections import Optimizer
from pretrain_trainer.model import build_model
from pretrain_trainer.model.language_model import FamilyModel
from pretrain_trainer.optimizer import build_optimizer

VOCAB = 320
LLAMA = Dimensions(64, 176, 2, 8, 2, 10_000.0, 1e-5, True, positions=48)
GPT2 = Dimensions(64, 256, 2, 4, 4, 10_000.0, 1e-5, False, family="gpt2", positions=48)


def model_of(shape: Dimensions) -> FamilyModel:
    torch.manual_seed(0)
    return build_model(shape.family, shape, VOCAB)


@pytest.mark.parametrize(("shape", "matrices"), [(LLAMA, 2 * 7), (GPT2, 2 * 4)])
def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest(shape: Dimensions, matrices: int) -> None:
    model = model_of(shape)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, *rest = build_optimizer(model, Optimizer(name="muon"), fused=False).param_groups
    assert len(muon["params"]) == matrices
    assert not any(word in names[id(p)] for p in muon["params"] for word in ("embed", "lm_head", "wte", "wpe"))
    taken = [id(parameter) for group in (muon, *rest) for parameter in group["params"]]
    assert sorted(taken) == sorted(names)


def test_a_step_of_muon_is_as_large_as_one_of_adamw() -> None:
    def moved(name: str) -> dict[str, float]:
        model = model_of(GPT2)
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        optimizer = build_optimizer(model, Optimizer(name=name, learningRate=1e-3, weightDecay=0), fused=False)
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        return {key: (p - before[key]).square().mean().sqrt().item() for key, p in model.named_parameters()}

    muon, adamw = moved("muon"), moved("adamw")
    matrix = "network.transformer.h.0.mlp.c_fc.weight"
    assert muon[matrix] != adamw[matrix]
    assert 0.1 < muon[matrix] / adamw[matrix] < 0.5, "0.2 of it: AdamW's later steps are about that size"
    assert muon["network.transformer.wte.weight"] == pytest.approx(adamw["network.transformer.wte.weight"])


def test_adam_decays_through_the_gradient() -> None:
    model = model_of(GPT2)
    optimizer = build_optimizer(model, Optimizer(name="adam", weightDecay=0.3, learningRate=1e-3), fused=False)
    matrix = model.get_parameter("network.transformer.wpe.weight")
    before = matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # The first step of Adam is the learning rate, whatever the size of the gradient.
    assert torch.allclose(before - matrix, 1e-3 * before.sign(), atol=2e-5)
    vector = model.get_parameter("network.transformer.ln_f.weight")
    assert torch.equal(vector, torch.ones_like(vector))


def test_l1_is_the_sum_of_the_absolute_weights_of_matrices() -> None:
    model = model_of(LLAMA)
    assert model.penalty() is None
    model.l1 = 0.5
    penalty = model.penalty()
    assert penalty is not None
    expected = sum(p.abs().sum().item() for p in model.parameters() if p.ndim == 2)
    assert penalty.item() == pytest.approx(0.5 * expected, rel=1e-5)
    penalty.backward()  # type: ignore[no-untyped-call]
    matrix = model.get_parameter("lm_head.weight" if not LLAMA.tie_embeddings else "model.embed_tokens.weight")
    assert matrix.grad is not None
    assert torch.equal(matrix.grad, 0.5 * matrix.sign())
