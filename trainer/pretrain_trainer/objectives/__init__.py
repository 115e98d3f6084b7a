"""What is learned from text: an objective turns a place in the text into a sample. Numbers alone, no torch.

causal     the next token
masked     masked tokens; alone, or of two texts that are told apart
pairs      whether the second of two texts follows the first
spans      spans that were taken out

Each is a pure function of the text, the place and a random generator that is keyed by (seed, global sample index). So the
same text is masked otherwise in each pass over it, a resumed run goes on exactly, and processes need not agree on anything.
"""

from __future__ import annotations

from pretrain_trainer.config.sections import Training
from pretrain_trainer.objectives.causal import CausalLM
from pretrain_trainer.objectives.masked import MaskedLM
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.objectives.pairs import MaskedPairs
from pretrain_trainer.objectives.spans import SpanCorruption
from pretrain_trainer.objectives.special import SpecialTokens


def objective_of(training: Training, special: SpecialTokens) -> Objective:
    """The job's objective. Raises UserError if the tokenizer lacks a token that it needs."""
    match training.objective:
        case "causal-lm":
            return CausalLM(training)
        case "masked-lm":
            return MaskedLM(training, special)
        case "masked-lm+next-sentence":
            return MaskedPairs(training, special)
        case "span-corruption":
            return SpanCorruption(training, special)
