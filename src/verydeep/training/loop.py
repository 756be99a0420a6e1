"""Sect. 3.1: a training from its first iteration, or from its last checkpoint, to its end."""

import math
import signal as signals
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from verydeep import weights
from verydeep.datasets import Dataset
from verydeep.distributed import Ranks, local_ranks
from verydeep.errors import Interrupted, UserError
from verydeep.files import digest
from verydeep.network import ConvNet
from verydeep.photographs import ImageError
from verydeep.progress import Meter, say
from verydeep.recipe import Recipe
from verydeep.training import checkpoint
from verydeep.training.augmentation import Colours, MiniBatch, Order, loader
from verydeep.training.checkpoint import Progress
from verydeep.training.crowding import Crowding
from verydeep.training.initialisation import initialise, signal, start_from
from verydeep.training.journal import Clock, Report, read_log, reporting, silent
from verydeep.training.run import record_environment
from verydeep.training.schedule import stage
from verydeep.training.start import Start
from verydeep.training.step import Execution, Step, new_optimiser, set_rate

CHECKPOINT_SECONDS = 600.0
"""A checkpoint is written after every epoch, and within one whenever this time has passed."""

STUCK_SHARE, STUCK_EPOCHS, STUCK_ITERATIONS = 0.99, 5, (1000, 5000)
"""A loss above this share of ln(classes), that of guessing, is stuck after so many epochs and the lower number of
iterations, or after the higher number of iterations alone."""

SIGNAL_IMAGES = 32
"""Training images that the first signal is measured on."""


@dataclass(frozen=True)
class Validation:
    """How a training is validated after each epoch."""

    protocol: str
    """What its errors were measured by; stands beside each of them."""
    top1_error: Callable[[ConvNet], float]
    """Gives the top-1 error of a net in [0, 1]; called on every rank."""


def train(
    recipe: Recipe,
    start: Start,
    dataset: Dataset,
    colours: Colours,
    validation: Validation,
    run: Path,
    ranks: Ranks,
    execution: Execution,
) -> ConvNet:
    """Train a net, or go on with a training that was interrupted, to its end.

    Args:
        recipe: what to train and how.
        start: where its weights come from, and its initial learning rate.
        dataset: the training set.
        colours: its colour statistics.
        validation: how to validate.
        run: an entered run directory (`run_directory`).
        ranks: of this process.
        execution: how to compute.

    Returns:
        The trained net, in evaluation mode; its weights are in the run directory, too.

    Raises:
        UserError: where an image cannot be read, the loss is stuck or no longer finite, or the disk is full.
        Interrupted: after SIGTERM or SIGINT, when everything is saved.
    """
    net = ConvNet(recipe.architecture(len(dataset.classes)), dataset.classes).to(ranks.device)
    net.card = replace(net.card, training_scale=recipe.scales, flip=recipe.flip, rescaling=recipe.rescaling)
    let_learn(net, recipe.learns)
    optimiser = new_optimiser(net, recipe, start.rate)
    restored = checkpoint.restore(run, net, optimiser)
    origin = "" if restored else start_weights(net, recipe, start, colours)
    net.train()
    net.recompute = execution.recompute
    progress = restored or Progress()
    if progress.ended:
        if ranks.first:
            say(f"{run}: this training has ended ({progress.ended}); nothing is left to do")
            complete(recipe, start, dataset, validation, net, progress, run)
        return net.eval()
    refuse_different_starts(ranks, run, net, progress, dataset)
    if ranks.first:
        place = {"device": str(ranks.device), "ranks": ranks.world}
        record_environment(run, asdict(execution) | place)
    end = min(recipe.iterations, recipe.epochs * -(-len(dataset) // recipe.batch))
    order = Order(len(dataset), recipe.batch, recipe.seed, ranks, progress.iteration, end)
    with ExitStack() as stack:
        meter = stack.enter_context(Meter(f"training {recipe.net}", end, ranks.first, progress.iteration))
        report = stack.enter_context(reporting(run, meter, progress.iteration)) if ranks.first else silent
        training = Training(recipe, start, dataset, validation, net, optimiser, progress, run, ranks, report)
        if restored:
            line = f"{run}: going on after iteration {progress.iteration}"
            report(line, event="resumed", iteration=progress.iteration)
        else:
            report(
                f"{origin}; {start.sentence(recipe.learning_rate is not None)}", event="started", rate=start.rate
            )
            training.report_signal(colours)
            training.clock.restart()
        signalled = stack.enter_context(signals_noted())
        step = Step(net, optimiser, ranks, execution)
        batches = iter(loader(dataset, recipe, colours, order, execution.computing.workers, ranks.device))
        while not progress.ended:
            if training.epoch_is_due(order):
                training.end_epoch(order)
                continue
            with training.clock.waiting():
                share = readable(next(batches))
            outcome = step(share, order.size(progress.iteration), signalled(), training.save_is_due())
            training.count(outcome.loss, outcome.wrong, outcome.images)
            meter.advance(1, f"loss {outcome.loss / outcome.images:.3f}")
            if outcome.signal or outcome.save:
                training.save()
            if outcome.signal:
                ranks.wait()  # for the first to have saved
                line = f"stopped after iteration {progress.iteration} and saved; the same command goes on"
                raise Interrupted(outcome.signal, line)
    return net.eval()


def complete(
    recipe: Recipe,
    start: Start,
    dataset: Dataset,
    validation: Validation,
    net: ConvNet,
    progress: Progress,
    run: Path,
) -> None:
    """Write what a run that has ended lacks: its weights are gone, or it was killed after its last checkpoint."""
    if not read_log(run)[1]:
        with reporting(run, Meter("", 0, enabled=False), progress.iteration) as report:
            report(event="ended", iteration=progress.iteration, reason=progress.ended)
    if not (run / weights.FILE_NAME).exists():
        write_weights(recipe, start, dataset, validation, net, progress, run)


def let_learn(net: ConvNet, layers: Collection[str]) -> None:
    """Let only these layers learn; all where none is named."""
    net.requires_grad_(not layers)
    for name in layers:
        net.get_submodule(name).requires_grad_(True)


def start_weights(net: ConvNet, recipe: Recipe, start: Start, colours: Colours) -> str:
    """Give a net the weights that its training starts with, and a line on where they come from.

    Raises:
        UserError: where the recipe starts from weights that do not fit, leave a layer random that does not learn,
            or were replaced meanwhile.
    """
    initialise(net, recipe.initialisation, recipe.std, recipe.seed)
    net.mean.copy_(torch.tensor(colours.mean))
    if recipe.start_from is None:
        return f"weights: random ({recipe.initialisation})"
    source = weights.load(recipe.start_from)
    if digest(weights.weight_file(recipe.start_from)) != start.weights:
        raise UserError(f"{recipe.start_from} was replaced while it was read; start again")
    copied = start_from(net, source)
    refuse_random_layers(net, recipe, copied)
    whole = len(copied) == sum(layer.kind == "conv" for layer in net.layers)
    name = "all layers" if whole else ", ".join(copied)
    rest = "" if whole else f", the rest random ({recipe.initialisation})"
    learns = f"; only {', '.join(recipe.learns)} learn" if recipe.learns else ""
    return f"weights: {name} from {recipe.start_from} (net {source.configuration.name}){rest}{learns}"


def refuse_random_layers(net: ConvNet, recipe: Recipe, copied: Collection[str]) -> None:
    """Refuse layers that would keep random weights for ever.

    Raises:
        UserError: names the first layer that neither learns nor has weights from elsewhere.
    """
    for layer in net.layers if recipe.learns else ():
        if layer.kind == "conv" and layer.name not in {*recipe.learns, *copied}:
            raise UserError(
                f"{layer.name} does not learn and gets no weights from {recipe.start_from}, so that it would stay "
                f"random; start from a net {net.configuration.name} of the same classes, or let {layer.name} learn"
            )


def refuse_different_starts(ranks: Ranks, run: Path, net: ConvNet, progress: Progress, dataset: Dataset) -> None:
    """Refuse ranks that would go on from different checkpoints, weights or data: machines without a common disk.

    Raises:
        UserError: on every rank.
    """
    mass = sum(parameter.detach().float().abs().sum().item() for parameter in net.parameters())
    for what, value in (("iteration", progress.iteration), ("images", len(dataset)), ("sum of weights", mass)):
        values = ranks.of_all(float(value))
        if len(set(values)) > 1:
            raise UserError(
                f"the ranks start differently: their {what} is {', '.join(f'{each:.9g}' for each in values)}. The "
                f"run directory {run}, the data and --start-from must be the same on all machines: use a disk "
                "that they share"
            )


@dataclass
class Training:
    """A training under way: its net, its progress, and where it reports and saves."""

    recipe: Recipe
    start: Start
    dataset: Dataset
    validation: Validation
    net: ConvNet
    optimiser: torch.optim.Optimizer
    progress: Progress
    run: Path
    ranks: Ranks
    report: Report

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.crowding = Crowding(local_ranks())
        self.clocked = 0
        """Images of this epoch since this process started."""

    def count(self, loss: float, wrong: int, images: int) -> None:
        """Count an iteration: the sum of its losses, its errors, its images.

        Raises:
            UserError: where the loss is no longer finite.
        """
        progress, rate = self.progress, self.optimiser.param_groups[0]["lr"]
        progress.iteration += 1
        progress.loss += loss
        progress.wrong += wrong
        progress.images += images
        self.clocked += images
        self.report(iteration=progress.iteration, loss=loss / images, rate=rate)
        if not math.isfinite(loss):
            raise UserError(self._diverged("the loss"))

    def epoch_is_due(self, order: Order) -> bool:
        """Whether the last mini-batch of an epoch is done, and the epoch not yet ended."""
        iteration = self.progress.iteration
        return self.progress.images > 0 and (iteration % order.per_epoch == 0 or iteration == order.end)

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return self.ranks.first and self.clock.since_save() > CHECKPOINT_SECONDS

    def end_epoch(self, order: Order) -> None:
        """Validate, report, set the rate of the next epoch or end the training, and save.

        Raises:
            UserError: where the loss is stuck at that of guessing.
        """
        progress, rate = self.progress, self.optimiser.param_groups[0]["lr"]
        lap = self.clock.lap(self.clocked)
        self.net.eval()
        error = self.validation.top1_error(self.net)
        self.net.train()
        loss, training_error = progress.loss / progress.images, progress.wrong / progress.images
        progress.training_losses.append(loss)
        progress.validation_errors.append(error)
        progress.loss, progress.wrong, progress.images = 0.0, 0, 0
        self.report(
            f"epoch {len(progress.validation_errors)}: loss {loss:.4f}, training error {training_error:.2%}, "
            f"validation error {error:.2%} ({self.validation.protocol}), rate {rate:.2g}, "
            f"{lap['images_per_second']:.0f} images/s, {lap['waiting_share']:.0%} of the time waiting for data",
            epoch=len(progress.validation_errors),
            iteration=progress.iteration,
            loss=loss,
            training_error=training_error,
            validation_error=error,
            validation_protocol=self.validation.protocol,
            rate=rate,
            **lap,
        )
        if line := self.crowding.line():
            self.report(line, event="crowded", iteration=progress.iteration)
        after = stage(self.recipe, self.start.rate, progress.validation_errors)
        if after.ended:
            progress.ended = f"no lower validation error after {self.recipe.rate_drops} drops of the rate"
        elif progress.iteration == order.end:
            progress.ended = "limit of iterations" if order.end == self.recipe.iterations else "limit of epochs"
        elif after.rate != rate:
            # Before saving: the checkpoint keeps velocities of this rate.
            set_rate(self.optimiser, after.rate, self.recipe.bias_rate)
            why = (
                f"as planned after epoch {len(progress.validation_errors)}"
                if self.recipe.drop_after
                else f"no lower validation error in {self.recipe.patience} epochs"
            )
            line = f"{why}: learning rate {after.rate:.2g}"
            self.report(line, event="rate", iteration=progress.iteration, rate=after.rate)
        self.save()
        if progress.ended:
            line = f"ended after iteration {progress.iteration}: {progress.ended}"
            self.report(line, event="ended", iteration=progress.iteration, reason=progress.ended)
        else:
            refuse_stuck(progress.training_losses, len(self.dataset.classes), order.per_epoch)
        self.clock.restart()
        self.clocked = 0

    def save(self) -> None:
        """Write the checkpoint and, after an epoch, the weight file.

        The weight file first, so that it is never older than the checkpoint; only the first checkpoint goes before
        it, as weights without one are not to be overwritten.

        Raises:
            UserError: where a weight is no longer finite, or the disk is full; what was saved before is kept.
        """
        self.clock.saved()
        if not self.ranks.first:
            return
        if not all(parameter.isfinite().all() for parameter in self.net.parameters()):
            raise UserError(self._diverged("a weight"))
        first = not (self.run / checkpoint.CHECKPOINT).exists()
        if first:
            checkpoint.save(self.run, self.net, self.optimiser, self.progress)
        if self.progress.validation_errors and not self.progress.images:
            write_weights(
                self.recipe, self.start, self.dataset, self.validation, self.net, self.progress, self.run
            )
        if not first:
            checkpoint.save(self.run, self.net, self.optimiser, self.progress)

    def report_signal(self, colours: Colours) -> None:
        """Say how large the signal of some training images is at the output of the net."""
        size = min(self.recipe.batch, SIGNAL_IMAGES)
        first = Order(len(self.dataset), size, self.recipe.seed, Ranks(), 0, 1)
        batch = readable(next(iter(loader(self.dataset, self.recipe, colours, first, 0, self.ranks.device))))
        measured = signal(self.net, batch.images.to(self.ranks.device))
        self.report(measured.sentence(), event="signal", **asdict(measured))

    def _diverged(self, what: str) -> str:
        return (
            f"{what} is no longer finite at iteration {self.progress.iteration} (learning rate "
            f"{self.optimiser.param_groups[0]['lr']:.2g}); try a lower --learning-rate, another --initialisation "
            f"(glorot, he), or start from a shallower net (--start-from). What {self.run} holds is from before"
        )


def write_weights(
    recipe: Recipe,
    start: Start,
    dataset: Dataset,
    validation: Validation,
    net: ConvNet,
    progress: Progress,
    run: Path,
) -> None:
    """Write the weight file of a run after an epoch.

    Raises:
        UserError: where it cannot be written.
    """
    errors = progress.validation_errors
    provenance = {
        "recipe": recipe.model_dump(mode="json") | {"learning_rate": start.rate},
        "start": start.weights,
        "data": dataset.name,
        "images": len(dataset),
        "epochs": len(errors),
        "iterations": progress.iteration,
        "validation_error": errors[-1],
        "validation_protocol": validation.protocol,
    }
    net.card = replace(net.card, provenance=provenance)
    weights.save(net, run / weights.FILE_NAME)


def refuse_stuck(losses: Sequence[float], classes: int, per_epoch: int) -> None:
    """Stop a run whose loss sits at ln(classes), that of guessing.

    Args:
        losses: mean training loss of each epoch.
        classes: their number.
        per_epoch: iterations of an epoch.

    Raises:
        UserError: says so, and what to try.
    """
    guessing = math.log(classes)
    epochs = next((i for i, loss in enumerate(reversed(losses)) if loss < STUCK_SHARE * guessing), len(losses))
    least, enough = STUCK_ITERATIONS
    iterations = epochs * per_epoch
    if guessing and (iterations >= enough or (epochs >= STUCK_EPOCHS and iterations >= least)):
        raise UserError(
            f"the loss sits at {losses[-1]:.3f}, and ln({classes}) = {guessing:.3f} is what guessing gives, since "
            f"{epochs} epochs: the net does not learn. Try --initialisation glorot or he, start from a shallower "
            "net (--start-from), or another --learning-rate"
        )


def readable(batch: MiniBatch | ImageError) -> MiniBatch:
    """Raise here, in the training process, what a worker could not read."""
    if isinstance(batch, ImageError):
        raise batch
    return batch


@contextmanager
def signals_noted() -> Iterator[Callable[[], int]]:
    """Note SIGTERM and Ctrl-C instead of dying of them; a second one ends the process at once.

    Only the main thread of a process is sent signals; in another one none is noted.

    Yields:
        A function that gives the number of the signal that came, or 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    noted = [0]
    before = {number: signals.getsignal(number) for number in (signals.SIGTERM, signals.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signals.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        noted[0] = number
        restore()

    for number in before:
        signals.signal(number, note)
    try:
        yield lambda: noted[0]
    finally:
        restore()
