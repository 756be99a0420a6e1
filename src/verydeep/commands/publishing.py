"""`verydeep push`: a net on the Hugging Face hub."""

from typing import Annotated

from cyclopts import Parameter

from verydeep.commands.arguments import Json
from verydeep.terminal import write_json, write_line


def push(
    run: str,
    repository: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative=())] = False,
    json_: Json = False,
) -> None:
    """Upload a net to the Hugging Face hub, with its model card.

    The repository gets model.safetensors, config.json and README.md. A README.md that it already has is kept.
    Afterwards every command that takes a net takes hf://OWNER/NAME. This needs `pip install 'verydeep[hub]'`, and
    a token with permission to write (`hf auth login`, or HF_TOKEN).

    For example:

    - `verydeep push runs/d OWNER/NAME --private`
    - `verydeep predict hf://OWNER/NAME holiday.jpg`

    Args:
        run: a run directory, a weight file, or another system's weights.
        repository: OWNER/NAME; created if it does not exist.
        private: make a new repository private.
    """
    from verydeep.publishing import push as push_net

    address = push_net(run, repository, private=private)
    if json_:
        write_json({"repository": repository, "commit": address})
    else:
        write_line(address)
