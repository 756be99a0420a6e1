"""Waiting threads give up their core when other processes compute, and that changes no result."""

import os
import subprocess
import sys

import pytest

from verydeep.engine import native

BESIDE_OTHERS = """
import os, subprocess, sys, time
import torch, verydeep
from verydeep.engine import native

torch.set_num_threads(2)
library = native.library()
torch.manual_seed(0)
net = verydeep.ConvNet("A", classes=10, crop=32, width=0.25, fully_connected=128).eval()
images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
forever = [sys.executable, "-c", "while True: pass"]
others = [subprocess.Popen(forever) for _ in range(2 * os.cpu_count())]
passes, until = int(sys.argv[1]), time.monotonic() + 60
try:
    with torch.no_grad():
        expected = net(images)
        while passes and not library.waits_asleep() and time.monotonic() < until:
            passes -= 1
            net(images)
        print(library.waits_asleep(), torch.equal(net(images), expected))
finally:
    for process in others:
        process.kill()
        process.wait()
"""

pytestmark = pytest.mark.skipif(
    native.library() is None
    or native.loaded("GOMP_parallel") is None
    or not os.path.exists("/proc/self/schedstat"),
    reason="needs the engine, torch's OpenMP, and a system that reports how long threads waited for a core",
)


def beside_others(passes, **environment):
    """Compute beside two processes per core; return whether threads sleep in the end and results are equal."""
    ours = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", BESIDE_OTHERS, str(passes)]
    return subprocess.run(
        command, env=others | environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_threads_sleep_where_others_compute_and_the_result_is_the_same():
    assert beside_others(-1) == ["True", "True"]


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_the_user_has_set_stands(name):
    value = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000"}[name]
    assert beside_others(20, **{name: value}) == ["False", "True"]
