"""One iteration: the update rule written out, micro-batches, and the rate."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from synthetic import mini_batch
from verydeep.computing import Computing
from verydeep.distributed import Ranks
from verydeep.network import ConvNet
from verydeep.recipe import Recipe, changed
from verydeep.training.initialisation import initialise
from verydeep.training.step import Execution, Step, new_optimiser, set_rate

RECIPE = Recipe(crop=32, width=0.125, fully_connected=16, initialisation="glorot", batch=12)


def new_net(name="A"):
    net = ConvNet(name, 5, crop=RECIPE.crop, width=RECIPE.width, fully_connected=RECIPE.fully_connected)
    initialise(net, RECIPE.initialisation)
    return net.train()


def gradients(net, batch):
    net.zero_grad()
    F.cross_entropy(net(batch.images, batch.keys, batch.shifts), batch.targets).backward()
    return {name: parameter.grad.double().numpy().copy() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("bias_rate", [1.0, 2.0])
def test_the_update_is_krizhevskys_also_when_the_rate_falls(bias_rate):
    """In numpy: v := 0.9 v - 0.0005 rate w - rate gradient; w := w + v.

    Biases learn at their own rate and do not decay.
    """
    net = new_net()
    recipe = changed(RECIPE, {"bias_rate": bias_rate})
    optimiser = new_optimiser(net, recipe, 1e-2)
    step = Step(net, optimiser, Ranks(), Execution())
    weights = {name: parameter.detach().double().numpy().copy() for name, parameter in net.named_parameters()}
    velocity = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for iteration, rate in enumerate([1e-2, 1e-2, 1e-3, 1e-3, 1e-4]):
        if optimiser.param_groups[0]["lr"] != rate:
            set_rate(optimiser, rate, bias_rate)
        batch = mini_batch(12, iteration)
        for name, gradient in gradients(net, batch).items():
            decay, own = (0.0, rate * bias_rate) if name.endswith("bias") else (5e-4, rate)
            velocity[name] = 0.9 * velocity[name] - decay * rate * weights[name] - own * gradient
            weights[name] = weights[name] + velocity[name]
        step(batch, 12)
        for name, parameter in net.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), weights[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_micro_batches_keep_the_meaning_of_the_batch(size):
    nets = [new_net(), new_net()]
    for net, micro in zip(nets, (0, size), strict=True):
        step = Step(net, new_optimiser(net, RECIPE, 1e-2), Ranks(), Execution(micro_batch=micro))
        outcomes = [step(mini_batch(12, seed), 12) for seed in range(3)]
        assert all(outcome.images == 12 for outcome in outcomes)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=4e-6)


FROZEN = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1")


def partly_frozen():
    net = new_net()
    for name in FROZEN:
        net.get_submodule(name).requires_grad_(False)
    return net


@pytest.mark.parametrize("execution", [Execution(), Execution(micro_batch=5), Execution(recompute=True)])
def test_layers_that_learn_do_what_they_would_do_with_the_others_learning(execution):
    """In the first step, since later ones have other inputs."""
    nets = [new_net(), partly_frozen()]
    before = {name: parameter.detach().clone() for name, parameter in nets[0].named_parameters()}
    for net, how in zip(nets, (Execution(), execution), strict=True):
        net.recompute = how.recompute
        Step(net, new_optimiser(net, RECIPE, 1e-2), Ranks(), how)(mini_batch(12), 12)
    for (name, one), other in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        if name.split(".")[0] in FROZEN:
            assert torch.equal(other, before[name])
            assert not torch.equal(one, before[name])
            assert other.grad is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_backward_pass_ends_at_the_lowest_layer_that_learns():
    net, kept, batch = partly_frozen(), [], mini_batch(2)
    features = net.features(batch.images, ["conv5_1", "conv5_2"])
    assert [each.requires_grad for each in features.values()] == [False, True]

    def keep(tensor):
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(batch.images, batch.keys)
    assert kept
    assert all(max(shape[2:], default=1) <= 3 for shape in kept), "larger maps and images are of frozen layers"


def test_an_outcome_counts_losses_and_errors_over_the_images():
    net, batch = new_net().eval(), mini_batch(7)
    scores = net(batch.images, batch.keys, batch.shifts)
    expected = F.cross_entropy(scores, batch.targets, reduction="sum").item()
    outcome = Step(net, new_optimiser(net, RECIPE, 1e-2), Ranks(), Execution(micro_batch=3))(batch, 7, signal=15)
    assert outcome.loss == pytest.approx(expected, rel=1e-5)
    assert outcome.wrong == (scores.argmax(1) != batch.targets).sum()
    assert (outcome.images, outcome.signal) == (7, 15)


def test_bf16_learns_the_same_direction():
    updates = []
    for precision in ("fp32", "bf16"):
        net = new_net()
        before = torch.cat([parameter.detach().flatten().clone() for parameter in net.parameters()])
        Step(net, new_optimiser(net, RECIPE, 1e-2), Ranks(), Execution(Computing(precision)))(mini_batch(12), 12)
        updates.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]) - before)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert F.cosine_similarity(*updates, dim=0) > 0.98
