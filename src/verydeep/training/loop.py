"""Sect. 3.1: a training, from its first iteration or its last checkpoint to its end."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from verydeep import weights
from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks, local_ranks
from verydeep.errors import Interrupted, UserError
from verydeep.files import digest
from verydeep.interop.loading import load, located
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError
from verydeep.progress import Meter, say
from verydeep.recipe import Recipe
from verydeep.training import checkpoint
from verydeep.training.augmentation import Colours, MiniBatch, Order, reading
from verydeep.training.checkpoint import Progress
from verydeep.training.crowding import Crowding
from verydeep.training.directory import Entered
from verydeep.training.gathering import worth_gathering
from verydeep.training.initialisation import initialise, signal, start_from
from verydeep.training.journal import Clock, Report, read_log, reporting, silent
from verydeep.training.objective import Objective, classification
from verydeep.training.resumption import recorded_data, recorded_regression
from verydeep.training.run import record_environment, record_limits
from verydeep.training.saving import Saving
from verydeep.training.schedule import LIMITS, last_iteration, stage, why_ended
from verydeep.training.start import Start
from verydeep.training.step import Begun, Execution, Outcome, Step, new_optimiser, set_rate
from verydeep.training.stopping import Signals, Stopped, signals_noted
from verydeep.training.summary import summary
from verydeep.training.validation import Validated, Validation, best_epoch
from verydeep.training.weight_files import WeightFiles

CHECKPOINT_SECONDS = 600.0
"""A checkpoint is written after every epoch, and during one whenever this time has passed."""

VALIDATION_SECONDS = 60.0
"""A checkpoint is also written before a validation, if the last one is older than this."""

STUCK_SHARE, STUCK_EPOCHS, STUCK_ITERATIONS = 0.99, 5, (1000, 5000)
"""A loss above this share of chance, ln(classes), is stuck after this many epochs and the lower number of
iterations, or after the higher number of iterations alone."""

SIGNAL_IMAGES = 32
"""Training images that the first signal is measured on."""


def train(
    recipe: Recipe,
    entered: Entered,
    dataset: Dataset,
    colours: Colours,
    validation: Validation,
    ranks: Ranks,
    execution: Execution,
    objective: Objective | None = None,
) -> ConvNet:
    """Train a net, or resume its training, to the end.

    A training that a limit had ended is resumed if the recipe now has a higher one.

    Args:
        recipe: what to train and how.
        entered: the run directory, and where the training starts (`run_directory`).
        dataset: the training set.
        colours: its colour statistics.
        validation: how to validate.
        ranks: of this process.
        execution: how to compute.
        objective: what the net is to output; if None, the classes of the data set.

    Returns:
        The trained net, in evaluation mode; its weights are also in the run directory.

    Raises:
        UserError: if an image cannot be read, the loss is stuck or no longer finite, the disk is full, a limit is
            below what has been done, or the run directory was moved or replaced.
        Interrupted: after SIGTERM or SIGINT, once everything is saved.
    """
    run, objective = entered.path, objective or classification(dataset)
    net = ConvNet(recipe.architecture(len(objective.outputs)), objective.outputs).to(ranks.device)
    net.card = replace(net.card, training_scale=recipe.scales, flip=recipe.flip, rescaling=recipe.rescaling)
    let_learn(net, recipe.learns)
    optimiser = new_optimiser(net, recipe, entered.start.rate)
    restored = checkpoint.restore(entered, net, optimiser)
    origin = "" if restored else start_weights(net, recipe, entered.start, colours)
    net.train()
    net.recompute = execution.recompute
    progress = restored or Progress()
    end = last_iteration(recipe, -(-len(dataset) // recipe.batch))
    order = Order(len(dataset), recipe.batch, recipe.seed, ranks, progress.iteration, end)
    continued = restored is not None and reopen(recipe, entered, progress, order)
    files = WeightFiles(recipe, entered, dataset, validation.protocol)
    if progress.ended:
        if ranks.first:
            complete(entered, files, net, progress)
        return net.eval()
    refuse_different_starts(ranks, run, net, progress, dataset)
    rate = stage(recipe, entered.start.rate, progress.validation_errors).rate if continued else None
    if ranks.first:
        place = {"device": str(ranks.device), "ranks": ranks.world}
        record_limits(entered, recipe)
        record_environment(entered, asdict(execution) | place)
        files.repair_best(net, progress)
        for line in summary(recipe, dataset, validation, net, ranks, execution, rate or current_rate(optimiser)):
            say(line)
    with ExitStack() as stack:
        stack.enter_context(execution.computing.settings(ranks.device, fixed_shapes=True))
        meter = stack.enter_context(
            Meter(f"training {recipe.net}", end, ranks.first, progress.iteration, unit="mini-batches")
        )
        report = stack.enter_context(reporting(run, meter, progress.iteration)) if ranks.first else silent
        signals = stack.enter_context(signals_noted())
        training = Training(
            recipe,
            entered,
            dataset,
            objective,
            validation,
            net,
            optimiser,
            progress,
            ranks,
            report,
            signals,
            files,
            stack.enter_context(Saving(entered, files, ranks.device)),
            order,
        )
        if restored:
            line = f"{run}: resuming after iteration {progress.iteration}"
            report(line, event="resumed", iteration=progress.iteration)
        else:
            line = entered.start.sentence(recipe.learning_rate is not None)
            report(f"{origin}; {line}", event="started", rate=entered.start.rate)
            training.report_signal(colours)
            training.clock.restart()
        if rate is not None and rate != current_rate(optimiser):  # a drop that was due when the limit was reached
            set_rate(optimiser, rate, recipe.bias_rate)
            report(f"learning rate {rate:.2g}", event="rate", iteration=progress.iteration, rate=rate)
        step = Step(
            net,
            optimiser,
            ranks,
            execution,
            objective.loss,
            worth_gathering(net, order.size(0), ranks, execution.computing.precision),
        )
        batches = stack.enter_context(
            reading(dataset, recipe, colours, objective.targets, order, execution.computing.workers, ranks.device)
        )
        try:
            learn(training, step, batches, meter)
        except Stopped as stopped:
            training.save()
            raise training.interrupted(stopped.number) from None
    return net.eval()


def learn(training: "Training", step: Step, batches: Iterator[MiniBatch | ImageError], meter: Meter) -> None:
    """Learn from mini-batch after mini-batch, until the training ends.

    Raises:
        Stopped: after a signal, while nothing is being changed.
        Interrupted: after a signal to a rank, once everything is saved.
        UserError: as `train` does.
    """
    progress, ranks, signals = training.progress, training.ranks, training.signals
    while not progress.ended:
        training.saving.check()
        if training.epoch_is_due():
            training.end_epoch()
            continue
        # One of several ranks cannot leave by itself: the others would wait for its gradient.
        with training.clock.waiting(), signals.interrupting(ranks.world == 1):
            share = readable(next(batches))
        size = training.order.size(training.begun)
        begun = step.begin(share, size, signals.number, training.save_is_due())
        outcomes = training.proceed(begun, step.late)
        for outcome in outcomes:
            meter.advance(1, f"{training.epoch}, loss {outcome.loss / outcome.images:.3f}")
        if any(outcome.signal or outcome.save for outcome in outcomes):
            training.save()
        if number := max((outcome.signal for outcome in outcomes), default=0):
            training.saving.wait()
            ranks.wait()  # until the first has saved
            raise training.interrupted(number)


def reopen(recipe: Recipe, entered: Entered, progress: Progress, order: Order) -> bool:
    """Decide by the recipe's limits, which may have changed, whether a training has ended.

    A training that had ended since validation stopped improving stays ended.

    Args:
        recipe: the recipe.
        entered: the run.
        progress: of its checkpoint; `ended` is changed.
        order: the order of images, up to the limit.

    Returns:
        Whether the training had ended, and now has not.

    Raises:
        UserError: if the training has already gone beyond a limit.
    """
    if progress.iteration > order.end:
        raise UserError(
            f"the limits of {recipe.epochs} epochs and {recipe.iterations} iterations end a training after "
            f"iteration {order.end}, and {entered.path} is at iteration {progress.iteration}; set higher limits"
        )
    before = progress.ended
    if progress.between_epochs and (not before or before in LIMITS.values()):
        after = stage(recipe, entered.start.rate, progress.validation_errors)
        progress.ended = why_ended(recipe, after, progress.iteration, order.per_epoch)
    return before != "" and progress.ended == ""


def complete(entered: Entered, files: WeightFiles, net: ConvNet, progress: Progress) -> None:
    """Say that a run has ended, and write what it lacks: it may have been killed after its last checkpoint."""
    run = entered.path
    continued = (
        "the same command with --epochs N" if recorded_regression(run) else f"verydeep resume {run} --epochs N"
    )
    more = f"; for more epochs: {continued}" if progress.ended in LIMITS.values() else ""
    say(f"{run}: this training has ended ({progress.ended}); nothing is left to do{more}")
    entered.check()
    if not read_log(run)[1]:
        with reporting(run, Meter("", 0, enabled=False), progress.iteration) as report:
            report(**ended_event(progress))
    if not (run / weights.FILE_NAME).exists():
        files.write_last(net, progress)
    files.repair_best(net, progress)


def ended_event(progress: Progress) -> dict[str, str | int]:
    """Return what the log says of the end of a training."""
    return {
        "event": "ended",
        "iteration": progress.iteration,
        "reason": progress.ended,
        "best_epoch": best_epoch(progress.validation_errors),
    }


def current_rate(optimiser: torch.optim.Optimizer) -> float:
    """Return the learning rate of the weights."""
    rate: float = optimiser.param_groups[0]["lr"]
    return rate


def let_learn(net: ConvNet, layers: Collection[str]) -> None:
    """Train only these layers and freeze the others; train all if none is named."""
    net.requires_grad_(not layers)
    for name in layers:
        net.get_submodule(name).requires_grad_(True)


def start_weights(net: ConvNet, recipe: Recipe, start: Start, colours: Colours) -> str:
    """Give a net the weights that its training starts with, and return a line on their origin.

    Raises:
        UserError: if the recipe starts from weights that do not fit, leave a frozen layer random, or have been
            replaced meanwhile.
    """
    initialise(net, recipe.initialisation, recipe.std, recipe.seed)
    net.mean.copy_(torch.tensor(colours.mean))
    if recipe.start_from is None:
        return f"weights: random ({recipe.initialisation})"
    source = load(recipe.start_from)
    if digest(located(recipe.start_from).path) != start.weights:
        raise UserError(f"{recipe.start_from} was replaced while it was being read; start again")
    copied = start_from(net, source)
    refuse_random_layers(net, recipe, copied)
    whole = len(copied) == sum(layer.kind == "conv" for layer in net.layers)
    name = "all layers" if whole else ", ".join(copied)
    rest = "" if whole else f", the rest random ({recipe.initialisation})"
    learns = f"; only {', '.join(recipe.learns)} learn" if recipe.learns else ""
    return f"weights: {name} from {recipe.start_from} (net {source.configuration.name}){rest}{learns}"


def refuse_random_layers(net: ConvNet, recipe: Recipe, copied: Collection[str]) -> None:
    """Refuse frozen layers with random weights, which they would keep.

    Raises:
        UserError: names the first layer that is frozen and has no weights from elsewhere.
    """
    for layer in net.layers if recipe.learns else ():
        if layer.kind == "conv" and layer.name not in {*recipe.learns, *copied}:
            raise UserError(
                f"{layer.name} is frozen and gets no weights from {recipe.start_from}, so it would stay "
                f"random; start from a net {net.configuration.name} of the same classes, or add {layer.name} to "
                "--learns"
            )


def refuse_different_starts(ranks: Ranks, run: Path, net: ConvNet, progress: Progress, dataset: Dataset) -> None:
    """Refuse ranks with different checkpoints, weights or data: their machines do not share a disk.

    Raises:
        UserError: on every rank.
    """
    starts = ("iteration", progress.iteration), ("images", len(dataset)), ("checksum of weights", checksum(net))
    for what, value in starts:
        values = ranks.of_all(float(value))
        if len(set(values)) > 1:
            raise UserError(
                f"the ranks start differently: their {what} is {', '.join(f'{each:.9g}' for each in values)}. The "
                f"run directory {run}, the data and --start-from must be the same on all machines: use a disk "
                "that they share"
            )


CHECKSUMS = 2**24 - 3
"""A prime, so that each bit counts; every whole number below it is a float32, as `Ranks.of_all` sends it."""


def checksum(net: ConvNet) -> int:
    """Return a checksum of a net's weights, which must be float32.

    It adds the bits of the weights as whole numbers: unlike a sum of the weights themselves, it does not depend on
    the order of additions, which differs between models of GPU.
    """
    sums = (each.detach().view(torch.int32).sum(dtype=torch.int64) for each in net.parameters())
    return int(sum(each.item() for each in sums)) % CHECKSUMS


@dataclass
class Training:
    """A training under way: its net, its progress, and where it reports and saves."""

    recipe: Recipe
    entered: Entered
    dataset: Dataset
    objective: Objective
    validation: Validation
    net: ConvNet
    optimiser: torch.optim.Optimizer
    progress: Progress
    ranks: Ranks
    report: Report
    signals: Signals
    files: WeightFiles
    saving: Saving
    order: Order

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.crowding = Crowding(local_ranks())
        self.clocked = 0
        """Images of this epoch since this process started."""
        self.under_way: Begun | None = None
        """The last iteration that was begun, if it is not counted yet."""

    @property
    def begun(self) -> int:
        """Mini-batches begun: those counted, and the one under way."""
        return self.progress.iteration + (self.under_way is not None)

    def proceed(self, begun: Begun, late: bool) -> list[Outcome]:
        """Count the iteration before the one that was just begun and, unless it can wait, this one.

        It can wait if the device computes it by itself, no epoch ends with it, and nothing has to be saved. All
        ranks decide this alike.

        Returns:
            The outcomes of the iterations that were counted.
        """
        outcomes = self.settle()
        self.under_way = begun
        if not late or self._ends_epoch(self.begun) or any(each.signal or each.save for each in outcomes):
            outcomes += self.settle()
        return outcomes

    def settle(self) -> list[Outcome]:
        """Wait for the iteration under way, if there is one, count it, and return its outcome."""
        if self.under_way is None:
            return []
        outcome, self.under_way = self.under_way.outcome(), None
        self.count(outcome.loss, outcome.wrong, outcome.images)
        return [outcome]

    @property
    def epoch(self) -> str:
        """The current epoch, for people: "epoch 2 of 74"."""
        number = len(self.progress.validation_errors) + 1
        return f"epoch {number} of {max(number, -(-self.order.end // self.order.per_epoch))}"

    def count(self, loss: float, wrong: int, images: int) -> None:
        """Count an iteration: the sum of its losses, its errors, its images.

        Raises:
            UserError: if the loss is no longer finite.
        """
        progress = self.progress
        progress.iteration += 1
        progress.loss += loss
        progress.wrong += wrong
        progress.images += images
        self.clocked += images
        self.report(iteration=progress.iteration, loss=loss / images, rate=current_rate(self.optimiser))
        if not math.isfinite(loss):
            raise UserError(self._diverged("the loss"))

    def epoch_is_due(self) -> bool:
        """Whether the last mini-batch of an epoch is done, and the epoch has not ended yet."""
        return self.progress.images > 0 and self._ends_epoch(self.progress.iteration)

    def _ends_epoch(self, iteration: int) -> bool:
        return iteration % self.order.per_epoch == 0 or iteration == self.order.end

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is old."""
        return self.ranks.first and self.clock.since_save() > CHECKPOINT_SECONDS

    def end_epoch(self) -> None:
        """Validate, set the rate of the next epoch or end the training, save, and report.

        Measurements are logged first, then everything is saved, and only then are lines written for people: a
        terminal that is gone costs no work.

        Raises:
            UserError: if the loss is stuck at chance.
            Stopped: if a signal comes during the validation; nothing has changed by then.
        """
        progress, rate = self.progress, current_rate(self.optimiser)
        lap = self.clock.lap(self.clocked)
        name = self.epoch
        error, validation_loss = self._validated()
        loss, training_error = progress.loss / progress.images, progress.wrong / progress.images
        progress.training_losses.append(loss)
        progress.validation_errors.append(error)
        progress.loss, progress.wrong, progress.images = 0.0, 0, 0
        epoch, iteration = len(progress.validation_errors), progress.iteration
        lines = [
            f"{name}: loss {loss:.4f}, training error {training_error:.2%}, validation loss "
            f"{validation_loss:.4f}, validation error {error:.2%} ({self.validation.protocol}), rate {rate:.2g}, "
            f"{lap['images_per_second']:.0f} images/s, {lap['waiting_share']:.0%} of the time waiting for data"
        ]
        self.report(
            epoch=epoch,
            iteration=iteration,
            loss=loss,
            training_error=training_error,
            validation_error=error,
            validation_loss=validation_loss,
            validation_protocol=self.validation.protocol,
            rate=rate,
            **lap,
        )
        if line := self.crowding.line():
            lines.append(line)
            self.report(event="crowded", iteration=iteration)
        after = stage(self.recipe, self.entered.start.rate, progress.validation_errors)
        progress.ended = why_ended(self.recipe, after, iteration, self.order.per_epoch)
        if not progress.ended and after.rate != rate:
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
            self.saving.wait()
            lines.append(f"ended after iteration {iteration}: {progress.ended}; {self.files.best(progress)}")
            self.report(**ended_event(progress))
        for line in lines:
            self.report(line)
        if not progress.ended:
            refuse_stuck(progress.training_losses, self.objective.chance, self.order.per_epoch)
        self.clock.restart()
        self.clocked = 0

    def _validated(self) -> Validated:
        """Validate the net.

        Raises:
            Stopped: if this rank gets a signal meanwhile; what was learnt before is saved, or can be.
        """
        if self.clock.since_save() > VALIDATION_SECONDS:
            self.save()
        self.net.eval()
        try:
            with self.signals.interrupting():
                return self.validation.measure(self.net)
        finally:
            self.net.train()

    def save(self) -> None:
        """Save everything; see `Saving.begin`. An iteration under way is counted first.

        Raises:
            UserError: if a weight is no longer finite, or the disk is full; what was saved before is kept.
        """
        self.settle()
        self.clock.saved()
        if not self.ranks.first:
            return
        if not torch.stack([parameter.isfinite().all() for parameter in self.net.parameters()]).all():
            raise UserError(self._diverged("a weight"))
        if self.progress.between_epochs:
            self.files.sign(self.net, self.progress)
        self.saving.begin(self.net, self.optimiser, self.progress)

    def interrupted(self, number: int) -> Interrupted:
        """Return what a signal ends the training with, once all is saved."""
        run = self.entered.path
        also = f", and so does: verydeep resume {run}" if recorded_data(run) else ""
        line = f"stopped after iteration {self.progress.iteration} and saved; the same command resumes it{also}"
        return Interrupted(number, line)

    def report_signal(self, colours: Colours) -> None:
        """Report how large the signal of some training images is at the output of the net."""
        size = min(self.recipe.batch, SIGNAL_IMAGES)
        first = Order(len(self.dataset), size, self.recipe.seed, Ranks(), 0, 1)
        targets, device = self.objective.targets, self.ranks.device
        with reading(self.dataset, self.recipe, colours, targets, first, 0, device) as batches:
            batch = readable(next(batches))
        measured = signal(self.net, batch.images.to(self.ranks.device))
        self.report(measured.sentence(), event="signal", **asdict(measured))

    def _diverged(self, what: str) -> str:
        return (
            f"{what} is no longer finite at iteration {self.progress.iteration} (learning rate "
            f"{current_rate(self.optimiser):.2g}); try a lower --learning-rate, another --initialisation "
            f"(glorot, he), or start from a shallower net (--start-from). {self.entered.path} keeps what was "
            "saved before"
        )


def refuse_stuck(losses: Sequence[float], chance: float, per_epoch: int) -> None:
    """Stop a run whose loss stays at that of chance: ln(classes) in classification.

    Args:
        losses: mean training loss of each epoch.
        chance: mean loss of a net that guesses; 0 if unknown.
        per_epoch: iterations per epoch.

    Raises:
        UserError: says so, and what to try.
    """
    epochs = next((i for i, loss in enumerate(reversed(losses)) if loss < STUCK_SHARE * chance), len(losses))
    least, enough = STUCK_ITERATIONS
    iterations = epochs * per_epoch
    if chance and (iterations >= enough or (epochs >= STUCK_EPOCHS and iterations >= least)):
        raise UserError(
            f"the loss is {losses[-1]:.3f} and has stayed at chance ({chance:.3f}) for {epochs} "
            f"epoch{'' if epochs == 1 else 's'}: the net does not learn. Try --initialisation glorot or he, start "
            "from a shallower net (--start-from), or another --learning-rate"
        )


def readable(batch: MiniBatch | ImageError) -> MiniBatch:
    """Return a mini-batch; raise an error that a worker met, here in the training process."""
    if isinstance(batch, ImageError):
        raise batch
    return batch
