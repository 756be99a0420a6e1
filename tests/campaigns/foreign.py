"""Load mutated files of other systems: each loads or is refused in one line, in bounded time and memory.

    PYTHONPATH=tests python tests/campaigns/foreign.py 1000

mutates a small file of each format in 1000 ways and loads the results, in one process per format, so that a crash
is noticed. For each format it prints how many files loaded, how many were refused, the longest time in seconds,
and by how many MB the process grew. The exit code is 1 if a process crashed, hung, grew too much, or raised
anything but a UserError.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

SECONDS = 5.0
"""Limit per mutated file; each has a few kilobytes."""

MEGABYTES = 500
"""Limit by which a process may grow."""

VALUES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Change some bytes, most of them near the start; then maybe truncate, or drop, repeat or zero a piece."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 8)):
        end = int(random.choice([64, 512, 4096, len(changed)]))
        at = int(random.integers(min(end, len(changed))))
        changed[at] = random.choice(VALUES) if random.random() < 0.7 else changed[at] ^ 1 << random.integers(8)
    at, length = int(random.integers(len(changed))), int(random.integers(1, 600))
    match random.integers(8):
        case 0:
            del changed[at:]
        case 1:
            del changed[at : at + length]
        case 2:
            changed[at:at] = changed[at : at + length]
        case 3:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
    return bytes(changed)


def campaign(name: str, number: int) -> None:
    """Load mutated files of a format, and print the outcome as JSON."""
    import verydeep
    from interop.test_hostile import SAMPLES
    from verydeep.interop.loading import load

    random, counts, longest, other = np.random.default_rng(0), Counter(), 0.0, ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(SAMPLES[name])
        load(path)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(number):
            path.write_bytes(mutated(SAMPLES[name], random))
            start = time.monotonic()
            try:
                load(path)
                counts["loaded"] += 1
            except verydeep.UserError as error:
                counts["refused" if "\n" not in str(error) else "other"] += 1
            except Exception as error:
                counts["other"] += 1
                other = repr(error)[:200]
            longest = max(longest, time.monotonic() - start)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps({**counts, "seconds": round(longest, 2), "megabytes": grown, "error": other}))


def main() -> int:
    """Run one process per format, one after the other."""
    if len(sys.argv) > 2:
        campaign(sys.argv[2], int(sys.argv[1]))
        return 0
    from interop.test_hostile import SAMPLES

    number, failed = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, 0
    for name in SAMPLES:
        command = [sys.executable, __file__, str(number), name]
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=number * SECONDS, env=dict(os.environ), check=False
        )
        found = (
            json.loads(ended.stdout.splitlines()[-1]) if ended.returncode == 0 else {"crashed": ended.returncode}
        )
        bad = (
            "crashed" in found or "other" in found or found["seconds"] > SECONDS or found["megabytes"] > MEGABYTES
        )
        failed += bool(bad)
        print(f"{name:10} {'FAILED ' if bad else ''}{found}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
