"""Errors that a user can fix are one line."""

import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from synthetic import refusal
from verydeep import weights
from verydeep.errors import UserError, reason, system_error
from verydeep.network import ConvNet
from verydeep.photographs.photograph import ImageError


def test_a_message_is_one_printable_line_whatever_the_names_in_it():
    assert str(UserError("no folder \x1b[2Jcat\n")) == r"no folder \x1b[2Jcat\n"
    assert str(ImageError(None, "is \udce9")) == r"pixels in memory: is \xe9"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ELOOP, "link"),
        (errno.EACCES, "permissions"),
        (errno.EMFILE, "ulimit"),
    ],
)
def test_what_the_system_refuses_is_said_with_the_file_and_what_to_do(number, advice):
    line = str(system_error(OSError(number, os.strerror(number), "runs/a\x1b")))
    assert line.startswith(rf"runs/a\x1b: {os.strerror(number)} (")
    assert advice in line
    assert "Errno" not in line


def test_the_reason_of_an_error_that_has_none_is_its_name():
    assert reason(OSError()) == "OSError"
    assert reason(OSError("header too large\nand more")) == "header too large"
    assert reason(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert str(system_error(OSError(errno.EIO, "Input/output error"))) == "Input/output error"


def test_names_of_tensors_and_classes_in_a_weight_file_are_shown_and_not_obeyed(tmp_path):
    net = ConvNet("A", classes=("\x1b]0;a\x07", "b"), crop=32, width=0.0625, fully_connected=8)
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    card = {"verydeep": weights.header(net.card)}
    save_file(tensors | {"\x1b[2J": torch.zeros(1)}, tmp_path / "tensor.safetensors", card)
    assert r"tensor \x1b[2J has shape" in refusal(weights.load, tmp_path / "tensor.safetensors")
    card["verydeep"] = card["verydeep"].replace("bilinear", "").replace('"flip"', '"\\u001b[2J": 1, "flip"')
    save_file(tensors, tmp_path / "card.safetensors", card)
    message = refusal(weights.load, tmp_path / "card.safetensors")
    assert r"\x1b[2J" in message
    assert "\x1b" not in message
