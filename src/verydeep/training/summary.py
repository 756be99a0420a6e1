"""What a training is going to do, in a few lines, before it starts."""

from verydeep.datasets.dataset import Dataset
from verydeep.distributed import Ranks
from verydeep.engine.native import available
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.estimate import training_memory
from verydeep.training.schedule import planned_epochs
from verydeep.training.step import Execution
from verydeep.training.validation import Validation


def summary(
    recipe: Recipe,
    dataset: Dataset,
    validation: Validation,
    net: ConvNet,
    ranks: Ranks,
    execution: Execution,
    rate: float,
) -> tuple[str, ...]:
    """Describe a training that is about to start or resume: data, net, memory, schedule, device.

    Args:
        recipe: what to train and how.
        dataset: the training set.
        validation: how to validate.
        net: the net, of which some layers may be frozen.
        ranks: of this process.
        execution: how to compute.
        rate: the learning rate it starts or resumes with.

    Returns:
        One line each, with a label in front.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    some = "" if trained == parameters else f", of which {trained:,} are trained"
    per_epoch = -(-len(dataset) // recipe.batch)
    images = images_at_once(recipe, len(dataset), ranks.world, execution)
    memory = _size(_memory(recipe, net, images, ranks, execution))
    epochs = planned_epochs(recipe, per_epoch)
    scales = " to ".join(map(str, recipe.training_scale))
    lines = {
        "data": f"{len(dataset):,} training images, {validation.images:,} validation images, "
        f"{len(dataset.classes):,} classes",
        "net": f"{recipe.net}, crop {recipe.crop}, {parameters:,} parameters{some}",
        "memory": f"about {memory} for {_count(images, 'image')} at once"
        f"{' on each rank' if ranks.world > 1 else ''} (estimate)",
        "schedule": f"up to {_count(epochs, 'epoch')} of {_count(per_epoch, 'iteration')} with "
        f"{_count(min(recipe.batch, len(dataset)), 'image')}, learning rate {rate:.2g}, S = {scales}",
        "validation": validation.protocol,
        "device": f"{ranks.device}, {execution.computing.precision}, "
        f"{'deterministic, ' if execution.computing.deterministic else ''}{_count(ranks.world, 'rank')}, "
        f"{_count(execution.computing.workers, 'worker')}{' each' if ranks.world > 1 else ''}",
    }
    return tuple(f"{label + ':':<12}{text}" for label, text in lines.items())


def images_at_once(recipe: Recipe, images: int, world: int, execution: Execution) -> int:
    """Return how many images pass through the net at once on a rank.

    Args:
        recipe: its batch.
        images: size of the training set.
        world: number of ranks.
        execution: its micro-batch.
    """
    share = -(-min(recipe.batch, images) // world)
    return min(execution.micro_batch or share, share)


def _memory(recipe: Recipe, net: ConvNet, images: int, ranks: Ranks, execution: Execution) -> int:
    bf16 = execution.computing.precision == "bf16"
    fused = ranks.device.type == "cpu" and not bf16 and available()
    return training_memory(net.architecture, images, recipe.learns, execution.recompute, bf16, fused)


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{-(-size // 2**20)} MiB"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
