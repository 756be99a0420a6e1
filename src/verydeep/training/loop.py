"""Sect. 3.1: a training from its first iteration, or from its last checkpoint, to its end."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from verydeep import weights
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, local_ranks
from verydeep.errors import Interrupted, UserError
from verydeep.files import digest
from verydeep.interop.loading import load
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.progress import Meter, say
from verydeep.recipe import Recipe
from verydeep.training import checkpoint
from verydeep.training.augmentation import Colours, MiniBatch, Order, reading
from verydeep.training.checkpoint import Progress
from verydeep.training.crowding import Crowding
from verydeep.training.directory import Entered
from verydeep.training.initialisation import initialise, signal, start_from
from verydeep.training.journal import Clock, Report, read_log, reporting, silent
from verydeep.training.run import record_environment
from verydeep.training.schedule import stage
from verydeep.training.start import Start
from verydeep.training.step import Execution, Step, new_optimiser, set_rate
from verydeep.training.stopping import Signals, Stopped, signals_noted

CHECKPOINT_SECONDS = 600.0
"""A checkpoint is written after every epoch, and within one whenever this time has passed."""

VALIDATION_SECONDS = 60.0
"""A checkpoint is written before a validation, too, if the last one is older than this."""

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
    entered: Entered,
    dataset: Dataset,
    colours: Colours,
    validation: Validation,
    ranks: Ranks,
    execution: Execution,
) -> ConvNet:
    """Train a net, or resume a training that was interrupted, to its end.

    Args:
        recipe: what to train and how.
        entered: the run directory, and where the training starts (`run_directory`).
        dataset: the training set.
        colours: its colour statistics.
        validation: how to validate.
        ranks: of this process.
        execution: how to compute.

    Returns:
        The trained net, in evaluation mode; its weights are in the run directory, too.

    Raises:
        UserError: if an image cannot be read, the loss is stuck or no longer finite, the disk is full, or the run
            directory was moved or replaced.
        Interrupted: after SIGTERM or SIGINT, when everything is saved.
    """
    run = entered.path
    net = ConvNet(recipe.architecture(len(dataset.classes)), dataset.classes).to(ranks.device)
    net.card = replace(net.card, training_scale=recipe.scales, flip=recipe.flip, rescaling=recipe.rescaling)
    let_learn(net, recipe.learns)
    optimiser = new_optimiser(net, recipe, entered.start.rate)
    restored = checkpoint.restore(entered, net, optimiser)
    origin = "" if restored else start_weights(net, recipe, entered.start, colours)
    net.train()
    net.recompute = execution.recompute
    progress = restored or Progress()
    if progress.ended:
        if ranks.first:
            say(f"{run}: this training has ended ({progress.ended}); nothing is left to do")
            complete(recipe, entered, dataset, validation, net, progress)
        return net.eval()
    refuse_different_starts(ranks, run, net, progress, dataset)
    if ranks.first:
        place = {"device": str(ranks.device), "ranks": ranks.world}
        record_environment(entered, asdict(execution) | place)
    end = min(recipe.iterations, recipe.epochs * -(-len(dataset) // recipe.batch))
    order = Order(len(dataset), recipe.batch, recipe.seed, ranks, progress.iteration, end)
    with ExitStack() as stack:
        meter = stack.enter_context(Meter(f"training {recipe.net}", end, ranks.first, progress.iteration))
        report = stack.enter_context(reporting(run, meter, progress.iteration)) if ranks.first else silent
        signals = stack.enter_context(signals_noted())
        training = Training(recipe, entered, dataset, validation, net, optimiser, progress, ranks, report, signals)
        if restored:
            line = f"{run}: going on after iteration {progress.iteration}"
            report(line, event="resumed", iteration=progress.iteration)
        else:
            line = entered.start.sentence(recipe.learning_rate is not None)
            report(f"{origin}; {line}", event="started", rate=entered.start.rate)
            training.report_signal(colours)
            training.clock.restart()
        step = Step(net, optimiser, ranks, execution)
        batches = stack.enter_context(
            reading(dataset, recipe, colours, order, execution.computing.workers, ranks.device)
        )
        try:
            learn(training, step, batches, order, meter)
        except Stopped as stopped:
            training.save()
            raise training.interrupted(stopped.number) from None
    return net.eval()


def learn(
    training: "Training", step: Step, batches: Iterator[MiniBatch | ImageError], order: Order, meter: Meter
) -> None:
    """Learn from mini-batch after mini-batch, until the training ends.

    Raises:
        Stopped: after a signal, while nothing is being changed.
        Interrupted: after a signal to a rank, when everything is saved.
        UserError: as `train` does.
    """
    progress, ranks, signals = training.progress, training.ranks, training.signals
    while not progress.ended:
        if training.epoch_is_due(order):
            training.end_epoch(order)
            continue
        # One of several ranks cannot leave by itself: the others would wait for its gradient.
        with training.clock.waiting(), signals.interrupting(ranks.world == 1):
            share = readable(next(batches))
        outcome = step(share, order.size(progress.iteration), signals.number, training.save_is_due())
        training.count(outcome.loss, outcome.wrong, outcome.images)
        meter.advance(1, f"loss {outcome.loss / outcome.images:.3f}")
        if outcome.signal or outcome.save:
            training.save()
        if outcome.signal:
            ranks.wait()  # for the first to have saved
            raise training.interrupted(outcome.signal)


def complete(
    recipe: Recipe,
    entered: Entered,
    dataset: Dataset,
    validation: Validation,
    net: ConvNet,
    progress: Progress,
) -> None:
    """Write what a run that has ended lacks: its weights are gone, or it was killed after its last checkpoint."""
    entered.check()
    run = entered.path
    if not read_log(run)[1]:
        with reporting(run, Meter("", 0, enabled=False), progress.iteration) as report:
            report(event="ended", iteration=progress.iteration, reason=progress.ended)
    if not (run / weights.FILE_NAME).exists():
        write_weights(recipe, entered, dataset, validation, net, progress)


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
    source = load(recipe.start_from)
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
    entered: Entered
    dataset: Dataset
    validation: Validation
    net: ConvNet
    optimiser: torch.optim.Optimizer
    progress: Progress
    ranks: Ranks
    report: Report
    signals: Signals

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
        """Validate, set the rate of the next epoch or end the training, save, and report.

        What was measured goes into the log first, then everything is saved, and then it is said: a terminal that
        is gone costs no work.

        Raises:
            UserError: if the loss is stuck at that of guessing.
            Stopped: if a signal comes during the validation; nothing has changed then.
        """
        progress, rate = self.progress, self.optimiser.param_groups[0]["lr"]
        lap = self.clock.lap(self.clocked)
        error = self._validated()
        loss, training_error = progress.loss / progress.images, progress.wrong / progress.images
        progress.training_losses.append(loss)
        progress.validation_errors.append(error)
        progress.loss, progress.wrong, progress.images = 0.0, 0, 0
        epoch, iteration = len(progress.validation_errors), progress.iteration
        lines = [
            f"epoch {epoch}: loss {loss:.4f}, training error {training_error:.2%}, "
            f"validation error {error:.2%} ({self.validation.protocol}), rate {rate:.2g}, "
            f"{lap['images_per_second']:.0f} images/s, {lap['waiting_share']:.0%} of the time waiting for data"
        ]
        self.report(
            epoch=epoch,
            iteration=iteration,
            loss=loss,
            training_error=training_error,
            validation_error=error,
            validation_protocol=self.validation.protocol,
            rate=rate,
            **lap,
        )
        if line := self.crowding.line():
            lines.append(line)
            self.report(event="crowded", iteration=iteration)
        after = stage(self.recipe, self.entered.start.rate, progress.validation_errors)
        if after.ended:
            progress.ended = f"no lower validation error after {self.recipe.rate_drops} drops of the rate"
        elif iteration == order.end:
            progress.ended = "limit of iterations" if order.end == self.recipe.iterations else "limit of epochs"
        elif after.rate != rate:
            # Before saving: the checkpoint keeps velocities of this rate.
            set_rate(self.optimiser, after.rate, self.recipe.bias_rate)
            why = (
                f"as planned after epoch {epoch}"
                if self.recipe.drop_after
                else f"no lower validation error in {self.recipe.patience} epochs"
            )
            lines.append(f"{why}: learning rate {after.rate:.2g}")
            self.report(event="rate", iteration=iteration, rate=after.rate)
        self.save()
        if progress.ended:
            lines.append(f"ended after iteration {iteration}: {progress.ended}")
            self.report(event="ended", iteration=iteration, reason=progress.ended)
        for line in lines:
            self.report(line)
        if not progress.ended:
            refuse_stuck(progress.training_losses, len(self.dataset.classes), order.per_epoch)
        self.clock.restart()
        self.clocked = 0

    def _validated(self) -> float:
        """The validation error.

        Raises:
            Stopped: if a signal comes meanwhile, in this rank; what was learnt before is saved, or can be.
        """
        if self.clock.since_save() > VALIDATION_SECONDS:
            self.save()
        self.net.eval()
        try:
            with self.signals.interrupting():
                return self.validation.top1_error(self.net)
        finally:
            self.net.train()

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
        first = not (self.entered.path / checkpoint.CHECKPOINT).exists()
        if first:
            checkpoint.save(self.entered, self.net, self.optimiser, self.progress)
        if self.progress.validation_errors and not self.progress.images:
            write_weights(self.recipe, self.entered, self.dataset, self.validation, self.net, self.progress)
        if not first:
            checkpoint.save(self.entered, self.net, self.optimiser, self.progress)

    def interrupted(self, number: int) -> Interrupted:
        """What a signal ends the training with, when all is saved."""
        line = f"stopped after iteration {self.progress.iteration} and saved; the same command resumes it"
        return Interrupted(number, line)

    def report_signal(self, colours: Colours) -> None:
        """Say how large the signal of some training images is at the output of the net."""
        size = min(self.recipe.batch, SIGNAL_IMAGES)
        first = Order(len(self.dataset), size, self.recipe.seed, Ranks(), 0, 1)
        with reading(self.dataset, self.recipe, colours, first, 0, self.ranks.device) as batches:
            batch = readable(next(batches))
        measured = signal(self.net, batch.images.to(self.ranks.device))
        self.report(measured.sentence(), event="signal", **asdict(measured))

    def _diverged(self, what: str) -> str:
        return (
            f"{what} is no longer finite at iteration {self.progress.iteration} (learning rate "
            f"{self.optimiser.param_groups[0]['lr']:.2g}); try a lower --learning-rate, another --initialisation "
            "(glorot, he), or start from a shallower net (--start-from). What "
            f"{self.entered.path} holds is from before"
        )


def write_weights(
    recipe: Recipe,
    entered: Entered,
    dataset: Dataset,
    validation: Validation,
    net: ConvNet,
    progress: Progress,
) -> None:
    """Write the weight file of a run after an epoch.

    Raises:
        UserError: if it cannot be written.
    """
    errors, start = progress.validation_errors, entered.start
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
    content = weights.Content.of(net)
    with entered.written(weights.FILE_NAME) as aside:
        content.write(aside)


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
