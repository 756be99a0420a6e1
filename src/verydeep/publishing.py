"""A net as a repository on the Hugging Face hub, by the conventions of its PyTorchModelHubMixin.

model.safetensors is a weight file of this project, so `verydeep.load` reads it, alone or from the hub. config.json
has the arguments of `ConvNet`, so a subclass of `ConvNet` and PyTorchModelHubMixin reads the repository, too.
README.md is the model card.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from verydeep import weights
from verydeep.card import Card
from verydeep.description import Description, describe
from verydeep.interop import hub
from verydeep.interop.loading import located, net_at, reader_of
from verydeep.procedures import Net
from verydeep.progress import say


def configuration(card: Card) -> dict[str, Any]:
    """Return the content of config.json: the arguments of `ConvNet` for the net of a card."""
    made = card.architecture
    return {
        "architecture": made.configuration,
        "classes": made.classes if card.class_names is None else list(card.class_names),
        "crop": made.crop,
        "width": made.width,
        "fully_connected": made.fully_connected,
        "dropout": made.dropout,
    }


def push(source: Net, repository: str, *, private: bool = False) -> str:
    """Upload a net to the Hugging Face hub, as model.safetensors, config.json and README.md in one commit.

    The repository is created if it does not exist. A README.md that it already has is kept, since someone may have
    written it by hand; a line on standard error says so. `verydeep.load("hf://OWNER/NAME")` loads the net.

    This needs huggingface_hub (`pip install 'verydeep[hub]'`), and a token with permission to write:
    `hf auth login`, or HF_TOKEN.

    Args:
        source: a run, a weight file, another system's file or a reference on the hub, as `load` takes them; or a
            `ConvNet`. A weight file of this project is uploaded as it is, in float32 or float16; other nets are
            saved as one in float32.
        repository: OWNER/NAME.
        private: whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UserError: if the net cannot be loaded or saved, huggingface_hub or a token is missing, the hub cannot be
            reached, or it refuses.
    """
    hub.check_repository(repository)
    library = hub.library()
    with _weight_file(source) as (path, found):
        api = library.HfApi(library_name="verydeep")
        try:
            api.create_repo(repository, private=private or None, exist_ok=True)
            keeps = api.file_exists(repository, hub.README)
            texts = {hub.CONFIGURATION: json.dumps(configuration(found.card), indent=1) + "\n"}
            if not keeps:
                texts[hub.README] = found.markdown(repository)
            add = library.CommitOperationAdd
            files = [add(hub.WEIGHTS, str(path)), *(add(name, text.encode()) for name, text in texts.items())]
            message = f"Net {found.card.architecture.configuration} of verydeep"
            commit = api.create_commit(repository, files, commit_message=message)
        except Exception as error:  # huggingface_hub passes on what its HTTP library raises
            raise hub.refused(error, hub.Reference(repository)) from error
    if keeps:
        say(f"{repository} keeps its {hub.README}; `verydeep describe --markdown` prints a new one")
    return str(commit.commit_url)


@contextmanager
def _weight_file(source: Net) -> Iterator[tuple[Path, Description]]:
    """Yield the path of a weight file of this project for a net, and the net's description."""
    if not isinstance(source, nn.Module):
        there = located(source)
        if reader_of(there.path) is None:
            yield there.path, describe(source)
            return
    net = source if isinstance(source, nn.Module) else net_at(there)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / hub.WEIGHTS
        weights.save(net, path)
        yield path, describe(net)
