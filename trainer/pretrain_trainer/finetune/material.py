"""What a task works with: its base, tokenizer and examples, on local disk and as numbers."""

from __future__ import annotations

from pathlib import Path

from pretrain_stage.manifest import Manifest, fetch
from pretrain_stage.storage import Storage

from pretrain_trainer.finetune.base import base_storage, bring_base
from pretrain_trainer.finetune.measure import Answering
from pretrain_trainer.finetune.methods import load_trained
from pretrain_trainer.finetune.network import TaskModel, build_network, count_parameters, read_config
from pretrain_trainer.finetune.plan import FinetunePlan
from pretrain_trainer.finetune.samples import Split, bring_examples, read_split
from pretrain_trainer.finetune.tasks import base_tokenizer, end_of_answer, learned_task, padding_token

WEIGHTS = "weights.safetensors"
"""What was trained, below finetune/<name>/model/."""


class Material:
    """What a task works with: its base, tokenizer and examples, on local disk and as numbers."""

    def __init__(self, plan: FinetunePlan, folder: Path, splits: tuple[str, ...]) -> None:
        """folder: where the base and the examples were brought."""
        self.plan, self.folder = plan, folder
        self.config = read_config(folder / "base", plan)
        self.tokenizer = base_tokenizer(str(folder / "base"), plan)
        self.task = learned_task(plan, self.tokenizer, self.config)
        self.pad = padding_token(self.tokenizer, self.config)
        self.splits: dict[str, Split] = {split: read_split(folder / f"{split}.jsonl", self.task, plan) for split in splits}

    def network(self) -> TaskModel:
        """The network as the run begins. Raises UserError if the base does not fit."""
        return build_network(
            self.folder / "base", self.config, self.tokenizer, self.task.head, self.task.peft_type, self.plan
        )

    def parameters(self) -> int:
        """Parameters of the model with its head, without what a method puts beside them."""
        return count_parameters(self.config, self.plan)

    def trained(self, storage: Storage, manifest: Manifest) -> TaskModel:
        """The network as fine-tuning has left it. manifest: of its stage."""
        from safetensors.torch import load_file

        network = self.network()
        (file,) = manifest.outputs
        load_trained(network, load_file(fetch(storage, file, self.folder / WEIGHTS)))
        return network.eval()

    def answering(self, *, sliced: bool) -> Answering:
        """How answers are generated. sliced: under ZeRO 3."""
        return Answering(
            tokenizer=self.tokenizer,
            most_new=self.plan.section.max_new_tokens,
            positions=self.plan.positions,
            pad=self.pad,
            end=end_of_answer(self.tokenizer, self.config),
            encoder_decoder=bool(self.config.is_encoder_decoder),
            sliced=sliced,
        )


def bring_material(plan: FinetunePlan, storage: Storage, folder: Path, splits: tuple[str, ...]) -> None:
    """Copies base and examples below a local folder. storage: the job's."""
    bring_base(plan.base, base_storage(plan.job, plan.section, storage), folder / "base")
    for split in splits:
        bring_examples(plan, storage, split, folder)
