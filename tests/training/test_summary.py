"""The lines before a training."""

from synthetic import memory
from verydeep.computing import Computing
from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training.loop import let_learn
from verydeep.training.step import Execution
from verydeep.training.summary import images_at_once, summary
from verydeep.training.validation import Validation

RECIPE = Recipe(crop=32, width=1 / 64, fully_connected=8, batch=16, epochs=3, training_scale=(32, 40))


def lines(recipe=RECIPE, layers=(), ranks=None, execution=None):
    dataset = memory()
    net = ConvNet(recipe.architecture(2))
    let_learn(net, layers)
    validation = Validation("centre-crop, Q = 36", 1200, lambda net: None)
    return summary(recipe, dataset, validation, net, ranks or Ranks(), execution or Execution(), 0.01)


def test_what_a_training_is_going_to_do():
    data, net, memory_, schedule, validation, device = lines()
    assert data.split(maxsplit=1) == ["data:", "40 training images, 1,200 validation images, 2 classes"]
    assert net.endswith("A, crop 32, 2,482 parameters")
    assert memory_.endswith("MiB for 16 images at once (estimate)")
    assert "up to 3 epochs of 3 iterations with 16 images, learning rate 0.01, S = 32 to 40" in schedule
    assert validation.endswith("centre-crop, Q = 36")
    assert device.endswith("cpu, fp32, 1 rank, 0 workers")


def test_frozen_layers_several_ranks_and_micro_batches():
    execution = Execution(Computing(workers=1), micro_batch=4)
    _, net, memory_, _, _, device = lines(layers=("fc8",), ranks=Ranks(world=2), execution=execution)
    assert net.endswith("2,482 parameters, of which 18 are trained")
    assert memory_.endswith("for 4 images at once on each rank (estimate)")
    assert device.endswith("2 ranks, 1 worker each")


def test_images_at_once():
    assert images_at_once(RECIPE, 40, 1, Execution()) == 16
    assert images_at_once(RECIPE, 40, 3, Execution(micro_batch=99)) == 6
    assert images_at_once(RECIPE, 7, 1, Execution()) == 7
