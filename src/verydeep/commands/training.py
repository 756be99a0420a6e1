"""`verydeep train` and `verydeep resume` (Sect. 3.1)."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from verydeep import recipe as recipes
from verydeep.commands.arguments import (
    Deterministic,
    Device,
    OptionalWhole,
    Precision,
    RecipeFlags,
    Skip,
    Whole,
    Workers,
)
from verydeep.recipe import Recipe
from verydeep.terminal import first_rank, write_line


def train(
    data: str,
    /,
    *,
    out: Path | None = None,
    recipe: Path | None = None,
    preset: Literal["small", "paper"] | None = None,
    flags: Annotated[RecipeFlags | None, Parameter(name="*")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    micro_batch: Whole = 0,
    workers: Workers = None,
    compile_: Annotated[bool, Parameter(name="--compile", negative=())] = False,
    recompute: Annotated[bool, Parameter(negative=())] = False,
    deterministic: Deterministic = False,
    skip_unreadable: Skip = False,
) -> None:
    """Train a net (Sect. 3.1), or resume a training that was interrupted.

    The result is a run directory. Ctrl-C and SIGTERM save everything and stop. The same command, or
    `verydeep resume RUN`, resumes the training.

    For example:

    - `verydeep train digits --net A --crop 32 --training-scale 32 40 --width 0.25 --fully-connected 256
      --initialisation he --out runs/a`
    - `verydeep train photographs --net D --start-from runs/a --out runs/d`
    - `torchrun --nproc-per-node 2 -m verydeep train photographs --net A`

    Args:
        data: a folder with train/CLASS/* and val/CLASS/*, a folder in the layout of ILSVRC-2012, or "digits".
        out: the run directory to create or resume [default: runs/NET].
        recipe: a TOML file of recipe fields, such as another run's recipe.toml; flags override it.
        preset: choose the sizes and the schedule that neither recipe nor flags give, and print them: small fits
            them to the data set and the machine, paper uses the paper's.
        micro_batch: images per forward and backward pass on each rank; 0 for the rank's whole share of the batch.
        compile_: compile the net with torch.compile.
        recompute: save memory: keep less for the backward pass and compute it again (activation checkpointing).
    """
    from verydeep.procedures import train as train_net

    chosen = recipes.changed(recipes.read(recipe) if recipe else Recipe(), dict(flags or {}))
    run = train_net(
        data,
        chosen,
        out or Path("runs") / chosen.net.lower(),
        preset=preset,
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        compile=compile_,
        recompute=recompute,
        deterministic=deterministic,
        skip_unreadable=skip_unreadable,
    )
    if first_rank():
        write_line(f"trained: {run.path / 'weights.safetensors'}; test it with: verydeep test {run.path} {data}")


def resume(
    run: str,
    /,
    *,
    epochs: OptionalWhole = None,
    iterations: OptionalWhole = None,
    data: str | None = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, mps or auto [default: as before]")] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16"] | None, Parameter(help="fp32, tf32 or bf16 [default: as before]")
    ] = None,
    micro_batch: OptionalWhole = None,
    workers: Workers = None,
    compile_: Annotated[bool | None, Parameter(name="--compile")] = None,
    recompute: bool | None = None,
    deterministic: bool | None = None,
    skip_unreadable: Skip = False,
) -> None:
    """Resume the training in a run directory, with its recipe and data, or continue one that a limit has ended.

    With a higher limit, the rate drops as if the run had had that limit from the start. A run that has ended
    because validation stopped improving at the last rate cannot be continued.

    For example:

    - `verydeep resume runs/a`
    - `verydeep resume runs/a --epochs 100`

    Args:
        run: a run directory.
        epochs: new limit of epochs [default: that of the run].
        iterations: new limit of iterations [default: that of the run].
        data: the data set, if it has moved [default: where it was].
        micro_batch: images per forward and backward pass on each rank [default: as before].
        compile_: compile the net with torch.compile [default: as before].
        recompute: save memory: keep less for the backward pass and compute it again [default: as before].
        deterministic: give the same bits every time on CUDA GPUs, too [default: as before].
    """
    from verydeep.procedures import resume as resume_run

    found = resume_run(
        run,
        epochs,
        iterations,
        data=data,
        device=device,
        precision=precision,
        workers=workers,
        micro_batch=micro_batch,
        compile=compile_,
        recompute=recompute,
        deterministic=deterministic,
        skip_unreadable=skip_unreadable,
    )
    if first_rank():
        write_line(str(found))
