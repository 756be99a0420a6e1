"""`verydeep map`: dense score maps over a photograph."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from verydeep.commands.arguments import Device, Scales, Whole, loaded
from verydeep.terminal import write_line


def map_(
    run: str,
    image: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    scales: Scales = (),
    top: Whole = 3,
    device: Device = "auto",
) -> None:
    """Draw dense score maps: where in a photograph a net sees its most likely classes (Sect. 3.2).

    The colour of a cell is its posterior, computed from the scores of that cell alone. There is one row of maps
    per scale. Mirror images are not used.

    For example:

    - `verydeep map runs/d holiday.jpg -o holiday-map.png`
    - `verydeep map runs/d holiday.jpg --scales 256 384 512 --top 5 -o holiday-map.png`

    Args:
        run: a run directory, a weight file, or published weights (see `verydeep weights`).
        image: a photograph: JPEG, PNG or WebP.
        out: the picture to write, .png.
        scales: test scales Q in pixels [default: Q as in `verydeep test`, and twice that].
        top: number of classes to show.
    """
    from verydeep.evaluation.maps import check_picture, class_maps, draw_maps

    check_picture(out, top)
    net = loaded(run, device)
    maps = class_maps(net, image, scales or None)
    shown = draw_maps(maps, net.card.names, out, top)
    write_line(f"{out}: {', '.join(shown)}")
