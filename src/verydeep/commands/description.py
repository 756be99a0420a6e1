"""`verydeep describe`: a net's model card."""

from typing import Annotated

from cyclopts import Parameter

from verydeep.commands.arguments import Json
from verydeep.errors import UserError
from verydeep.printable import printable
from verydeep.terminal import write, write_json, write_table


def describe(
    run: str,
    /,
    *,
    json_: Json = False,
    markdown: Annotated[
        bool, Parameter(negative=(), help="print a model card for the Hugging Face hub, its README.md")
    ] = False,
) -> None:
    """Show what a net is: its configuration, classes, input, training and origin.

    For example:

    - `verydeep describe runs/d`
    - `verydeep describe vgg16-397923af.pth`
    - `verydeep describe runs/d/best.safetensors --markdown`

    Args:
        run: a run directory, a weight file, another system's weights, or hf://OWNER/NAME on the Hugging Face hub.
    """
    from verydeep.description import describe as describe_net

    if json_ and markdown:
        raise UserError("--json and --markdown exclude each other; use one")
    found = describe_net(run)
    if json_:
        write_json(found.data())
    elif markdown:
        write(found.markdown())
    else:
        write_table(printable(run), [{"": name, "value": lines} for name, lines in found.facts().items()])
