"""BERT (Devlin et al. 2019): an encoder with learned positions, a head for masked tokens, and one for sentence pairs."""

from __future__ import annotations

from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from pretrain_trainer.config.presets import Dimensions
from pretrain_trainer.model.adapter import Adapter, fresh


class Bert(Adapter):
    """Tokens (batch, length) to logits (batch, length, vocabulary), and (batch, 2) if sentence pairs are judged."""

    def __init__(self, shape: Dimensions, vocab_size: int) -> None:
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=shape.positions,
            initializer_range=shape.init_std,
            layer_norm_eps=shape.norm_eps,
            tie_word_embeddings=shape.tie_embeddings,
            # A row for padding would never learn, and not every tokenizer has padding.
            pad_token_id=None,
        )
        self.pairs = shape.next_sentence
        super().__init__(fresh(BertForPreTraining if self.pairs else BertForMaskedLM, config), shape.dropout)

    def forward(
        self, tokens: Tensor, segments: Tensor | None = None, mask: Tensor | None = None, sample: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """segments: 0 or 1, which sentence of a pair a token is of. mask: 1 where there is a token, 0 where padding."""
        self.draw.samples = sample
        found = self.network(tokens, attention_mask=mask, token_type_ids=segments)
        if self.pairs:
            return {"tokens": found.prediction_logits, "next_sentence": found.seq_relationship_logits}
        logits: Tensor = found.logits
        return logits

    def tie_weights(self) -> None:
        super().tie_weights()
        # With embeddings apart, transformers makes two biases, of which it uses one.
        self.network.cls.predictions.decoder.bias = self.network.cls.predictions.bias
