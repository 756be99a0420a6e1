"""How many workers prefetch photographs, by cores, ranks and device."""

import pytest
import torch

from synthetic import refusal
from verydeep import distributed
from verydeep.workers import MANY, reading_workers, workers_for

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("cores", "ranks", "device", "expected"),
    [
        (16, 1, CUDA, 15),
        (64, 8, CUDA, 7),
        (192, 8, CUDA, 23),
        (2, 1, CUDA, 1),
        (1, 1, CUDA, 0),
        (4, 8, CUDA, 0),
        (16, 1, CPU, 8),
        (64, 1, CPU, 8),
        (16, 4, CPU, 2),
        (3, 1, CPU, 0),
    ],
)
def test_a_gpu_leaves_all_cores_of_its_rank_but_one_to_the_workers(monkeypatch, cores, ranks, device, expected):
    monkeypatch.setattr(distributed, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert reading_workers(None, device) == expected
    assert workers_for(MANY, None, device) == expected
    assert workers_for(MANY - 1, None, device) == 0
    assert reading_workers(5, device) == 5


def test_too_many_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "cores", lambda: 2)
    assert "workers is 17; a rank has 2 cores here, so use at most 16" in refusal(reading_workers, 17, CUDA)
    assert "workers is -1" in refusal(reading_workers, -1, CPU)
