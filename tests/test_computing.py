"""Torch's switches for precision and determinism: set while a net is computed on a GPU, and restored."""

import os
from contextlib import contextmanager

import pytest
import torch

from synthetic import refusal
from verydeep import distributed
from verydeep.computing import Computing
from verydeep.distributed import ranks
from verydeep.errors import UserError

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEW = hasattr(CUDNN, "conv")
"""Whether torch has the switches of 2.9."""


def switches():
    """Whether products and convolutions may use TF32, as torch's old switches and its new ones say."""
    found = [MATMUL.allow_tf32, CUDNN.allow_tf32]
    if NEW:
        found += [each.fp32_precision for each in (MATMUL, CUDNN.conv, CUDNN.rnn)]
    return found


def modes():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        CUDNN.deterministic,
        CUDNN.benchmark,
    )


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_convolutions_and_products_of_a_gpu_have_one_precision(precision):
    before = switches()
    assert before[:2] == [False, True], "torch's defaults: one net would give two answers, densely and on crops"
    expected = precision == "tf32"
    with Computing(precision).settings(CUDA):
        assert switches() == [expected, expected] + NEW * 3 * ["tf32" if expected else "ieee"]
        assert torch.get_float32_matmul_precision() == ("high" if expected else "highest")
    assert switches() == before
    with pytest.raises(ZeroDivisionError), Computing(precision).settings(CUDA):
        raise ZeroDivisionError
    assert switches() == before


def test_computations_may_be_nested():
    with Computing("tf32").settings(CUDA):
        outer = switches()
        with Computing("fp32").settings(CUDA):
            assert switches()[:2] == [False, False]
        assert switches() == outer


@pytest.mark.skipif(not NEW, reason="torch before 2.9 has one set of switches")
def test_new_switches_that_a_program_has_set_against_the_old_ones_are_respected():
    before = MATMUL.fp32_precision
    MATMUL.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            _ = MATMUL.allow_tf32
        with Computing().settings(CUDA):
            assert [MATMUL.fp32_precision, CUDNN.conv.fp32_precision] == ["ieee", "ieee"]
        assert MATMUL.fp32_precision == "tf32"
    finally:
        MATMUL.fp32_precision = before


def test_on_a_cpu_nothing_is_set(monkeypatch):
    before = switches(), modes()
    with Computing("bf16", deterministic=True).settings(CPU):
        assert (switches(), modes()) == before
    monkeypatch.setattr(os, "environ", environment := {})
    with ranks("cpu", deterministic=True):
        assert environment == {}


def test_what_a_device_cannot_do_is_refused():
    assert "precision tf32 is for CUDA GPUs, and the device is cpu; use" in refusal(Computing("tf32").check, CPU)
    Computing("tf32").check(CUDA)
    words = "deterministic is for CPUs and CUDA GPUs, and the device is mps"
    assert words in refusal(Computing(deterministic=True).check, torch.device("mps"))
    with pytest.raises(UserError), Computing("tf32").settings(CPU):
        pass


def test_deterministic_algorithms_are_on_while_inside():
    before = modes()
    CUDNN.benchmark = True
    try:
        with Computing(deterministic=True).settings(CUDA):
            assert modes() == (True, False, True, False)
        assert modes() == (*before[:3], True)
    finally:
        CUDNN.benchmark = before[3]


@pytest.mark.parametrize("found", [False, True])
def test_cudnn_looks_for_its_fastest_algorithms_only_if_shapes_are_fixed_and_bits_may_vary(found):
    """Photographs of ILSVRC have so many shapes that the search would take most of the time."""
    before = modes()
    CUDNN.benchmark = found
    try:
        for how, fixed, on in (
            (Computing(), True, True),
            (Computing(), False, False),
            (Computing(deterministic=True), True, False),
        ):
            with how.settings(CUDA, fixed):
                assert CUDNN.benchmark == on
                with Computing().settings(CUDA):  # a dense pass in the middle of a training
                    assert not CUDNN.benchmark
                assert CUDNN.benchmark == on
            assert CUDNN.benchmark == found
        with pytest.raises(ZeroDivisionError), Computing().settings(CUDA, fixed_shapes=True):
            raise ZeroDivisionError
        assert CUDNN.benchmark == found
    finally:
        CUDNN.benchmark = before[3]
    with Computing().settings(CPU, fixed_shapes=True):
        assert modes() == before


@contextmanager
def machine(monkeypatch, *, initialised=False, world=1, **variables):
    """A machine with a GPU, as far as `ranks` sees it; yields what it did, in order."""
    done = []
    variables |= {"WORLD_SIZE": str(world), "RANK": "0"}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised)

    def device_of(*_):
        done.append(("device", variables.get("CUBLAS_WORKSPACE_CONFIG"), variables.get("NCCL_NVLS_ENABLE")))
        return torch.device("cuda", 3)

    monkeypatch.setattr(distributed, "device_of", device_of)
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda *arguments, **named: done.append((arguments, named))
    )
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    yield done


def test_cublas_and_nccl_are_prepared_before_the_gpu_is_used(monkeypatch):
    with machine(monkeypatch, world=2) as done, ranks("cuda", deterministic=True):
        assert done[0] == ("device", ":4096:8", "0")
        assert os.environ["NCCL_ALGO"] == "Ring"
    with machine(monkeypatch, CUBLAS_WORKSPACE_CONFIG=":16:8") as done, ranks("auto", deterministic=True):
        assert done == [("device", ":16:8", "0")], "a value of the user's that will do is kept"
    with machine(monkeypatch) as done, ranks("cuda"):
        assert done == [("device", None, None)]


def test_a_gpu_in_use_cannot_be_prepared_any_more(monkeypatch):
    words = "CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with (
        machine(monkeypatch, initialised=True),
        pytest.raises(UserError, match=words),
        ranks("cuda", deterministic=True),
    ):
        pass
    with machine(monkeypatch, initialised=True, CUBLAS_WORKSPACE_CONFIG=":4096:8"):
        for _ in range(2):
            with ranks("cuda", deterministic=True):
                pass


def test_the_group_of_ranks_knows_the_gpu_of_each(monkeypatch):
    with machine(monkeypatch, world=2) as done, ranks("cuda") as here:
        assert done[-1] == (("nccl",), {"timeout": distributed.TIMEOUT, "device_id": here.device})
        assert here.device == torch.device("cuda", 3)
