"""The command line: all commands, and what is printed when one fails.

Modules that import torch are imported inside the commands, so that `verydeep --help` is fast.
"""

import os
import sys
from typing import NoReturn

from cyclopts import App, CycloptsError

from verydeep.commands.conversion import convert
from verydeep.commands.description import describe
from verydeep.commands.engine import engine
from verydeep.commands.experiments import report, reproduce
from verydeep.commands.export import export
from verydeep.commands.features import features
from verydeep.commands.inspection import inspect
from verydeep.commands.localisation import localise
from verydeep.commands.maps import map_
from verydeep.commands.prediction import predict
from verydeep.commands.publishing import push
from verydeep.commands.table1 import configurations
from verydeep.commands.testing import test
from verydeep.commands.training import resume, train
from verydeep.commands.transfer import transfer
from verydeep.commands.weights import weights
from verydeep.errors import Interrupted, UserError, system_error
from verydeep.progress import say
from verydeep.terminal import leave_standard_streams, open_standard_streams, write

app = App(
    name="verydeep",
    help="Very Deep Convolutional Networks for Large-Scale Image Recognition: train, test and use the nets.",
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
app.command(configurations)
app.command(convert)
app.command(describe)
app.command(engine)
app.command(export)
app.command(features)
app.command(inspect)
app.command(localise)
app.command(map_, name="map")
app.command(predict)
app.command(push)
app.command(report)
app.command(reproduce)
app.command(resume)
app.command(test)
app.command(train)
app.command(transfer)
app.command(weights)

FULL = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""Parts of the messages in which torch says that memory is full."""

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "remote process")
"""Parts of the messages in which torch says that another rank has stopped, if it raises a plain RuntimeError."""


def main() -> None:
    """Run the command line; exit with code 2 after an error of one line, and with 128 + number after a signal."""
    open_standard_streams()
    try:
        _main()
    finally:
        leave_standard_streams()


def _main() -> None:
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
        write("")  # flush what libraries have printed, such as the help
    except CycloptsError as error:
        _refuse(" ".join(str(error).split()))
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(str(system_error(error)))
    except KeyboardInterrupt:
        say("verydeep: interrupted")
        sys.exit(130)
    except Interrupted as stopped:
        say(f"verydeep: {stopped}")
        sys.exit(128 + stopped.number)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or any(word in str(error) for word in FULL):
            what = (str(error).splitlines() or ["MemoryError"])[0]
            _refuse(
                f"not enough memory ({what}); use a smaller --micro-batch, --crop, --width or --fully-connected, "
                "or --recompute"
            )
        if "RANK" not in os.environ or not (line := _lost(error)):
            raise
        _refuse(line)


def _lost(error: BaseException) -> str:
    """Return what to print for an error of exchanging data with the other ranks; empty if it is another error."""
    from torch import distributed

    # Another rank has stopped, and has printed why.
    if any(word in str(error) for word in LOST):
        return "another rank has stopped; see its message"
    if not isinstance(error, getattr(distributed, "DistError", ())):
        return ""
    # NCCL has many messages for a lost rank, and a few for wrong settings.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"cannot exchange data with the other ranks ({lines[0]}); if another rank has stopped, see its message"


def _refuse(line: str) -> NoReturn:
    """Print what is wrong, and on which rank, and exit with code 2."""
    rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
    say(f"verydeep{rank}: {line}")
    sys.exit(2)
