"""Try PyTorch's tools on one of our nets: the results must be the same as on torch's own layers.

`make parity` runs this in a separate environment. It prints a table, with the engine on and off, and exits with 1
if something does not agree. `tools.py WORDS` tries only tools and descriptions that contain the words.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict

SWITCH = "VERYDEEP_ENGINE"
CHILD = "--as-json"


def tried(only: str) -> None:
    """Run the trials in this process, and print one line of JSON for each."""
    import attribution  # noqa: F401
    import compilers  # noqa: F401
    import layers  # noqa: F401
    from trials import outcomes

    import ranks  # noqa: F401

    for each in outcomes(only):
        print(json.dumps(asdict(each)), flush=True)


def main() -> int:
    arguments = sys.argv[1:]
    if CHILD in arguments:
        tried(arguments[1])
        return 0
    only, failed, seen = " ".join(arguments), 0, 0
    for engine in ("on", "off"):
        environment = {name: value for name, value in os.environ.items() if name != SWITCH}
        if engine == "off":
            environment[SWITCH] = "off"
        print(f"\nengine {engine}\n{'tool, version':22}{'agrees':8}{'result':48}what was done")
        command = [sys.executable, "-W", "ignore", __file__, CHILD, only]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith('{"tool"'):  # a tool printed this
                    continue
                row = json.loads(line)
                seen += 1
                failed += not row["agrees"]
                named = f"{row['tool']} {row['version']}"
                agrees = "yes" if row["agrees"] else "NO"
                print(f"{named:22}{agrees:8}{row['result']:48}{row['what']}", flush=True)
        failed += process.returncode != 0
    print(f"\n{seen} trials, {failed} failed")
    return int(failed > 0 or seen == 0)


if __name__ == "__main__":
    sys.exit(main())
