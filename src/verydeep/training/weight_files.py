"""The weight files of a run: of its last epoch, and of its best."""

from dataclasses import dataclass, replace
from typing import Any

from verydeep import weights
from verydeep.datasets.dataset import Dataset
from verydeep.errors import UserError
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.checkpoint import Progress
from verydeep.training.directory import Entered
from verydeep.training.validation import best_epoch


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a run."""

    recipe: Recipe
    entered: Entered
    dataset: Dataset
    """The training set."""
    protocol: str
    """Of the validation errors."""

    def write_last(self, net: ConvNet, progress: Progress) -> None:
        """Write the weights of the last epoch.

        Raises:
            UserError: if the file cannot be written.
        """
        self._write(weights.FILE_NAME, net, progress)

    def write_best(self, net: ConvNet, progress: Progress) -> None:
        """Write the weights again as those of the best epoch, if that is the last one.

        This comes after the checkpoint. If the process is killed in between, the weights are still those of the
        checkpoint, and `repair_best` writes the file when the training is resumed.

        Raises:
            UserError: if the file cannot be written.
        """
        if _last_is_best(progress):
            self._write(weights.BEST_FILE_NAME, net, progress)

    def repair_best(self, net: ConvNet, progress: Progress) -> None:
        """Write the weights of the best epoch, given a checkpoint of that epoch, if the file lacks them.

        Raises:
            UserError: if the file cannot be written.
        """
        if not _last_is_best(progress):
            return
        try:
            there = weights.read_card(self.entered.path / weights.BEST_FILE_NAME).provenance
        except UserError:  # missing or damaged
            there = {}
        if there != self._provenance(progress):
            self._write(weights.BEST_FILE_NAME, net, progress)

    def best(self, progress: Progress) -> str:
        """Return what is said of the best epoch at the end of a training."""
        errors = progress.validation_errors
        epoch = best_epoch(errors)
        file = self.entered.path / weights.BEST_FILE_NAME
        kept = f"its weights are in {file}" if file.exists() else "its weights were not kept"
        return f"the lowest validation error is {errors[epoch - 1]:.2%}, after epoch {epoch}; {kept}"

    def sign(self, net: ConvNet, progress: Progress) -> None:
        """Write on a net's card where its weights come from, after an epoch."""
        net.card = replace(net.card, provenance=self._provenance(progress))

    def _write(self, name: str, net: ConvNet, progress: Progress) -> None:
        self.sign(net, progress)
        content = weights.Content.of(net)
        with self.entered.written(name) as aside:
            content.write(aside)

    def _provenance(self, progress: Progress) -> dict[str, Any]:
        """Return where the weights after an epoch come from, for their card."""
        start = self.entered.start
        return {
            "recipe": self.recipe.model_dump(mode="json") | {"learning_rate": start.rate},
            "start": start.weights,
            "data": self.dataset.name,
            "images": len(self.dataset),
            "epochs": len(progress.validation_errors),
            "iterations": progress.iteration,
            "validation_error": progress.validation_errors[-1],
            "validation_protocol": self.protocol,
        }


def _last_is_best(progress: Progress) -> bool:
    """Whether the weights are those after an epoch, and that epoch is the best."""
    errors = progress.validation_errors
    return progress.between_epochs and best_epoch(errors) == len(errors)
