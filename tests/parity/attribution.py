"""captum: activations and attributions, which attach hooks to layers and rewrite their gradients."""

import torch
from captum.attr import (
    DeepLift,
    GuidedBackprop,
    IntegratedGradients,
    LayerActivation,
    LayerConductance,
    LayerGradCam,
    LayerIntegratedGradients,
    NeuronGradient,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn
from trials import LABELS, Values, trial

LAYERS = ("conv1_1", "relu1_1", "pool1", "conv3_1", "relu3_1", "pool5", "drop6", "fc7", "fc8")


@trial("captum", f"LayerActivation of {', '.join(LAYERS)}")
def activations(net: nn.Module, images: Tensor) -> Values:
    return {name: LayerActivation(net, net.get_submodule(name)).attribute(images) for name in LAYERS}


@trial("captum", "LayerGradCam of relu3_2 and pool5")
def grad_cam(net: nn.Module, images: Tensor) -> Values:
    return {
        name: LayerGradCam(net, net.get_submodule(name)).attribute(images, target=LABELS)
        for name in ("relu3_2", "pool5")
    }


@trial("captum", "Saliency, GuidedBackprop, DeepLift")
def backward(net: nn.Module, images: Tensor) -> Values:
    return {
        method.__name__: method(net).attribute(images.clone(), target=LABELS)
        for method in (Saliency, GuidedBackprop, DeepLift)
    }


@trial("captum", "IntegratedGradients of the image, and of relu3_1 and fc6; LayerConductance of conv2_1")
def integrated(net: nn.Module, images: Tensor) -> Values:
    found = {"image": IntegratedGradients(net).attribute(images, target=LABELS, n_steps=8)}
    for name in ("relu3_1", "fc6"):
        method = LayerIntegratedGradients(net, net.get_submodule(name))
        found[name] = method.attribute(images, target=LABELS, n_steps=8)
    method = LayerConductance(net, net.get_submodule("conv2_1"))
    return found | {"conductance": method.attribute(images, target=LABELS, n_steps=8)}


@trial("captum", "NeuronGradient of a unit of conv4_1, Occlusion in windows of 16 x 16")
def neurons(net: nn.Module, images: Tensor) -> Values:
    gradient = NeuronGradient(net, net.get_submodule("conv4_1"))
    with torch.no_grad():
        occluded = Occlusion(net).attribute(images, (3, 16, 16), target=LABELS, strides=(3, 8, 8))
    return {"gradient": gradient.attribute(images, (5, 1, 1)), "occlusion": occluded}
