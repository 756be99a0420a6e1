"""A checkpoint that is not what was written is refused by name, whatever has changed."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic import refusal
from verydeep.network import ConvNet
from verydeep.recipe import Recipe
from verydeep.training import checkpoint
from verydeep.training.checkpoint import Progress
from verydeep.training.directory import Entered
from verydeep.training.start import Start
from verydeep.training.step import new_optimiser

RECIPE = Recipe(crop=32, width=0.125, fully_connected=8)
START = Start(None, None, None, 0.01)
PROGRESS = Progress(iteration=3, loss=1.5, wrong=2, images=5, validation_errors=[0.5], training_losses=[1.0])


def trained():
    torch.manual_seed(0)
    net = ConvNet(RECIPE.architecture(2))
    optimiser = new_optimiser(net, RECIPE, 0.01)
    for parameter in net.parameters():
        optimiser.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)
    return net, optimiser


NET, OPTIMISER = trained()


def entered(path):
    return Entered(path, START, {"recipe": {"seed": 0}, "start": None, "data": "d"})


def restore(path):
    return checkpoint.restore(entered(path), NET, OPTIMISER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(entered(folder), NET, OPTIMISER.state_dict(), PROGRESS)
    return (folder / "checkpoint.pt").read_bytes()


def old(path, **changes):
    """As version 0.3 and before wrote it: without a digest."""
    state = {"net": NET.state_dict(), "optimiser": OPTIMISER.state_dict(), "progress": vars(PROGRESS).copy()}
    torch.save(state | changes, path / "checkpoint.pt")


def test_what_is_saved_is_restored(tmp_path, whole):
    (tmp_path / "checkpoint.pt").write_bytes(whole)
    before = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    assert restore(tmp_path) == PROGRESS
    assert all(torch.equal(before[name], tensor) for name, tensor in NET.state_dict().items())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"] == vars(PROGRESS)


def test_a_checkpoint_without_a_digest_is_restored(tmp_path):
    old(tmp_path)
    assert restore(tmp_path) == PROGRESS


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found(tmp_path_factory, whole, data):
    folder = tmp_path_factory.getbasetemp()
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "checkpoint.pt").write_bytes(changed)
    assert "checkpoint.pt cannot be read" in refusal(restore, folder)


@pytest.mark.parametrize("versioned", [True, False])
def test_a_page_of_zeros_is_found(tmp_path, whole, versioned):
    old(tmp_path)
    content = bytearray(whole if versioned else (tmp_path / "checkpoint.pt").read_bytes())
    pages = range(0, len(content) - 4096, 4096)
    page = max(pages, key=lambda at: np.count_nonzero(np.frombuffer(content[at : at + 4096], np.uint8)))
    content[page : page + 4096] = bytes(4096)
    (tmp_path / "checkpoint.pt").write_bytes(content)
    message = refusal(restore, tmp_path)
    assert "it is not what was written" in message if versioned else "its record" in message


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("constants.pkl", "a")
        file.writestr("archive/data.pkl", b"\x80\x02.")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x02"),
        lambda path: path.write_bytes(b"(."),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: path.write_bytes(pickle.dumps({"net": print})),
        lambda path: torch.save({"net": pytest.Item}, path),  # a class, which weights_only refuses
        lambda path: torch.save([1], path),
        lambda path: torch.save({"progress": []}, path),
        lambda path: torch.save({"run": {}}, path),
        archive,
        lambda path: path.mkdir(),
    ],
)
def test_what_is_not_a_checkpoint_is_one_line_without_torch_s_advice(tmp_path, write):
    write(tmp_path / "checkpoint.pt")
    message = refusal(restore, tmp_path)
    assert "checkpoint.pt cannot be read" in message
    assert "move checkpoint.pt, weights.safetensors and best.safetensors away" in message
    assert not any(word in message for word in ("weights_only", "torch.load", "trust", "unsafe"))


@pytest.mark.parametrize(
    "changes",
    [
        {"progress": {"iteration": "3"}},
        {"progress": {"surprise": 1}},
        {"progress": 5},
        {"net": {}},
        {"net": 5},
        {"optimiser": {}},
        {"optimiser": None},
        {"run": 5},
        {"run": {"recipe": []}},
    ],
)
def test_unexpected_structure_is_one_line(tmp_path, changes):
    old(tmp_path, **changes)
    assert "checkpoint.pt cannot be read" in refusal(restore, tmp_path)


def test_a_velocity_of_another_shape_is_refused(tmp_path):
    state = OPTIMISER.state_dict()
    state["state"][0] = {"momentum_buffer": torch.zeros(2)}
    old(tmp_path, optimiser=state)
    assert "another shape" in refusal(restore, tmp_path)
