"""The decoder against transformers, and against itself."""

from __future__ import annotations

import pytest
import torch
from pretrain_trainer.config.presets import PRESETS, Dimensions
from pretrain_trainer.config.sections import Optimizer
from pretrain_trainer.model import build_model
from pretrain_trainer.model.llama import Llama
from pretrain_trainer.objective import loss_sum
from pretrain_trainer.optimizer import build_optimizer
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 320
SHAPES = {
    "tied, grouped": Dimensions(64, 176, 2, 8, 2, 10_000.0, 1e-5, True),
    "untied, grouped": Dimensions(64, 176, 2, 4, 2, 500_000.0, 1e-6, False),
    "untied, one head each": Dimensions(96, 128, 1, 3, 3, 10_000.0, 1e-5, False),
}


def theirs(shape: Dimensions) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            rms_norm_eps=shape.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            tie_word_embeddings=shape.tie_embeddings,
            max_position_embeddings=256,
        )
    )


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_gradients_are_those_of_transformers(name: str) -> None:
    shape = SHAPES[name]
    torch.manual_seed(0)
    ours = build_model("llama", shape, VOCAB)
    other = theirs(shape)
    other.load_state_dict(ours.state_dict())
    tokens = torch.randint(0, VOCAB, (2, 200))
    logits, expected = ours(tokens), other(tokens).logits
    assert torch.equal(logits, expected)
    loss_sum(logits[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    loss_sum(expected[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    gradients = {key: parameter.grad for key, parameter in other.named_parameters()}
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_as_many_as_the_arithmetic_says(name: str) -> None:
    model = build_model("llama", SHAPES[name], VOCAB)
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES[name].parameters(VOCAB)


@pytest.mark.parametrize(("preset", "billions"), [("llama2-7b", 6.738), ("llama3-8b", 8.030)])
def test_published_shapes_have_their_published_size(preset: str, billions: float) -> None:
    vocab = 32_000 if preset == "llama2-7b" else 128_256
    with torch.device("meta"):
        model = build_model("llama", PRESETS[preset], vocab)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 3) == billions


def test_weights_follow_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_model("llama", SHAPES["tied, grouped"], VOCAB).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_weights_start_as_documented() -> None:
    torch.manual_seed(0)
    shape = SHAPES["untied, grouped"]
    model = build_model("llama", shape, VOCAB)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            std = 0.02 / (2 * shape.layers) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


def test_recomputed_activations_change_nothing() -> None:
    torch.manual_seed(0)
    model = build_model("llama", SHAPES["tied, grouped"], VOCAB)
    tokens = torch.randint(0, VOCAB, (2, 33))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        loss_sum(model(tokens[:, :-1]), tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    kept = gradients()
    model.recompute_activations()
    assert all(torch.equal(a, b) for a, b in zip(kept, gradients(), strict=True))


def test_bf16_does_not_round_the_angles() -> None:
    """Position 4000 in bf16 is 4000 or 4016: were the angles rounded, far tokens would be told apart no more."""
    torch.manual_seed(0)
    shape = SHAPES["untied, one head each"]
    model = Llama(shape, VOCAB)
    cos, _ = model.model._cos_sin(0, 4096, torch.zeros(1))
    low, _ = model.bfloat16().model._cos_sin(0, 4096, torch.zeros(1, dtype=torch.bfloat16))
    assert (cos - low.float()).abs().max() < 0.005


def test_weights_decay_only_in_matrices() -> None:
    model = build_model("llama", SHAPES["tied, grouped"], VOCAB)
    matrices, vectors = build_optimizer(model, Optimizer(weightDecay=0.3), fused=False).param_groups
    assert {parameter.ndim for parameter in matrices["params"]} == {2}
    assert {parameter.ndim for parameter in vectors["params"]} == {1}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
