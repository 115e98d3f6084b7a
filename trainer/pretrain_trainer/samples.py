"""The samples of pretraining, by global index: a mixture says which place of which text, the objective what is asked there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain_trainer.mixture import Mixture
from pretrain_trainer.objective import Sample, Tensors, stacked
from pretrain_trainer.objectives.objective import Objective
from pretrain_trainer.sample import SAMPLE
from pretrain_trainer.text import Text


class TextSamples:
    """Samples of the texts of a mixture, which are in its order."""

    def __init__(self, objective: Objective, texts: Sequence[Text], mixture: Mixture, *, numbered: bool = False) -> None:
        """numbered: whether the model is told the global index of each sample, which dropout is drawn by."""
        self.objective, self.texts, self.mixture, self.numbered = objective, texts, mixture, numbered

    def at(self, indices: range) -> list[Sample]:
        samples = [
            self.objective.sample(self.texts[place.source], place.sample, self.mixture.chance(index))
            for index, place in zip(indices, self.mixture.places(indices), strict=True)
        ]
        if not self.numbered:
            return samples
        return [
            Sample({**sample.inputs, SAMPLE: np.array(index)}, sample.targets)
            for index, sample in zip(indices, samples, strict=True)
        ]

    def places(self, indices: range) -> list[int]:
        """Places in the text of all sources, one behind the other."""
        return [self.mixture.number(place) for place in self.mixture.places(indices)]

    def targets(self, samples: range) -> dict[str, int] | None:
        each = self.objective.targets
        return None if each is None else {head: len(samples) * count for head, count in each.items()}

    def together(self, samples: Sequence[Sample]) -> tuple[Tensors, Tensors]:
        return stacked(samples)
