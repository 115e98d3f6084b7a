"""causal-lm: each token is asked for after those before it."""

from __future__ import annotations

from pretrain_trainer.objectives.causal import CausalLM
from pretrain_trainer.order import chance_at

from tests.trainer.texts import documents, everything, text, training


def test_each_token_but_the_first_is_asked_for_once() -> None:
    whole = text([documents(4), documents(5)])
    objective = CausalLM(training("causal-lm", 8))
    tokens = everything(whole).tolist()
    samples = objective.window.samples(len(whole))
    assert samples == (len(tokens) - 1) // 8
    drawn = [objective.sample(whole, place, chance_at("test", 0, place)) for place in range(samples + 1)]
    assert [token for sample in drawn for token in sample.targets["tokens"]] == tokens[1:], "the last one is shorter"
    assert [token for sample in drawn for token in sample.inputs["tokens"]] == tokens[:-1]
    assert objective.targets == {"tokens": 8}
    assert objective.fault(whole) is None
