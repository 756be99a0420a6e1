"""Weights on the Hugging Face hub: `hf://owner/name` names a file, which huggingface_hub downloads and caches.

huggingface_hub is an extra. It is imported on first use, never with this package. Its settings apply: HF_HOME,
HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from verydeep.errors import UserError, reason
from verydeep.interop.conventions import TORCHVISION, Convention
from verydeep.interop.missing import needed

SCHEME = "hf://"

WEIGHTS, CONFIGURATION, README = "model.safetensors", "config.json", "README.md"
"""Files of a model's repository, by the hub's conventions."""

CANDIDATES = (WEIGHTS, "pytorch_model.bin")
"""Weight files of a repository, in the order in which they are tried."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

_FORM = "hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REFERENCE = re.compile(rf"({_REPOSITORY.pattern})(?:@(refs/pr/\d+|[^/]+))?(?:/(.+))?", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A file of a repository on the hub, as huggingface_hub's own `hf://` paths name it."""

    repository: str
    """OWNER/NAME."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""
    file: str | None = None
    """None for the first of `CANDIDATES` in the repository."""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}{self.repository}{revision}" + ("" if self.file is None else f"/{self.file}")


def reference(source: str | os.PathLike[str]) -> Reference | None:
    """Return the reference that a source is, or None if it is a path.

    Raises:
        UserError: if it begins with `hf://` and does not name a repository.
    """
    if not isinstance(source, str) or not source.startswith(SCHEME):
        return None
    found = _REFERENCE.fullmatch(source.removeprefix(SCHEME).rstrip("/"))
    if found is None:
        raise UserError(f"{source} does not name a repository on the hub; use {_FORM}")
    repository, revision, file = found.groups()
    return Reference(repository, None if revision is None else unquote(revision), file)


def check_repository(repository: str) -> None:
    """Check that a name has the form OWNER/NAME.

    Raises:
        UserError: if it has not.
    """
    if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} does not name a repository on the hub; use OWNER/NAME")


def library() -> Any:
    """Return huggingface_hub.

    Raises:
        UserError: if it is not installed.
    """
    return needed("huggingface_hub", "the Hugging Face hub", "hub")


def downloaded(wanted: Reference) -> tuple[Path, str]:
    """Return the path of a file in huggingface_hub's cache; download it if it is not there, or has changed.

    A connection that is cut is resumed. Without a network, a cached file is used as it is.

    Returns:
        The path, and the reference of the same file at its commit.

    Raises:
        UserError: if huggingface_hub is missing, the hub cannot be reached, or there is no such repository,
            revision or file; also if the repository is private or gated.
    """
    hub = library()
    failure: Exception | None = None
    for file in (wanted.file,) if wanted.file else CANDIDATES:
        try:
            path = hub.hf_hub_download(
                wanted.repository,
                file,
                revision=wanted.revision,
                library_name="verydeep",
                # If the hub could not be reached for the first candidate, the others may still be cached.
                local_files_only=isinstance(failure, hub.errors.LocalEntryNotFoundError),
            )
        except hub.errors.EntryNotFoundError as error:
            failure = failure or error
        except Exception as error:  # huggingface_hub passes on what its HTTP library raises
            raise refused(error, wanted) from error
        else:
            return Path(path), str(Reference(wanted.repository, _commit(path, file) or wanted.revision, file))
    assert failure is not None
    raise refused(failure, wanted) from failure


class Stated(NamedTuple):
    """What a repository says about its weights besides the file; None for what it does not say."""

    convention: Convention | None = None
    """The preprocessing in timm's config.json."""
    licence: str | None = None
    """The licence in the metadata of README.md."""


def stated(wanted: Reference) -> Stated:
    """Return what a repository says about its weights.

    Args:
        wanted: a file that was downloaded from it.

    Raises:
        UserError: if huggingface_hub is missing, or the preprocessing in config.json is none.
    """
    hub = library()

    def text(file: str) -> str:
        try:
            path = hub.hf_hub_download(wanted.repository, file, revision=wanted.revision, library_name="verydeep")
            return Path(path).read_text(encoding="utf-8")
        except (hub.errors.EntryNotFoundError, hub.errors.HfHubHTTPError, UnicodeDecodeError):
            return ""

    try:
        configuration = json.loads(text(CONFIGURATION) or "{}")
        fields = configuration.get("pretrained_cfg", configuration)
        mean, std = fields["mean"], fields["std"]
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):  # another library's, or none
        found = None
    else:
        found = _convention(wanted, mean, std)
    licence = re.search(r"^license: *['\"]?([\w.-]+)['\"]? *$", _metadata(text(README)), re.MULTILINE)
    return Stated(found, licence and licence[1])


def _convention(wanted: Reference, mean: Any, std: Any) -> Convention:
    try:
        red, green, blue = (tuple(255 * float(value) for value in each) for each in zip(mean, std, strict=True))
        if (red, green, blue) == tuple(zip(TORCHVISION.mean, TORCHVISION.std, strict=True)):
            return TORCHVISION
        means, deviations = zip(red, green, blue, strict=True)
        return Convention(f"timm's {CONFIGURATION}", means, deviations)
    except (TypeError, ValueError) as error:
        raise UserError(f"{wanted}: its {CONFIGURATION} has mean {mean!r} and std {std!r}") from error


def _metadata(readme: str) -> str:
    """Return the YAML at the head of a README.md."""
    found = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    return found[1] if found else ""


def _commit(path: str, file: str) -> str | None:
    """Return the commit in a path of the cache: .../snapshots/COMMIT/FILE."""
    folders = Path(path).parts[: -len(Path(file).parts)]
    return folders[-1] if folders[-2:-1] == ("snapshots",) else None


def refused(error: Exception, wanted: Reference) -> UserError:
    """Return an error of huggingface_hub as one line that says what to do.

    Args:
        error: what it raised.
        wanted: what was to be downloaded, or the repository that was to be written.
    """
    hub = library()
    name, endpoint = wanted.repository, hub.constants.ENDPOINT
    causes = [each for each in (error, error.__cause__, error.__context__) if isinstance(each, Exception)]
    status = next((code for each in causes if (code := _status(each))), None)

    def is_(kind: str) -> bool:
        return any(isinstance(each, getattr(hub.errors, kind)) for each in causes)

    cases = (
        (
            is_("OfflineModeIsEnabled") or (hub.constants.HF_HUB_OFFLINE and is_("LocalEntryNotFoundError")),
            f"{wanted} is not in the cache, and HF_HUB_OFFLINE is set; unset it to reach the hub",
        ),
        (is_("GatedRepoError"), f"{name} is gated; accept its terms at {endpoint}/{name}, then {LOG_IN}"),
        (
            is_("RevisionNotFoundError"),
            f"{name} has no revision {wanted.revision or 'main'}; pass one of its branches, tags or commits",
        ),
        (
            is_("RepositoryNotFoundError"),
            f"there is no repository {name} at {endpoint}, or it is private; check the name, or {LOG_IN}",
        ),
        (
            is_("RemoteEntryNotFoundError"),
            f"{name} has no {wanted.file or ' or '.join(CANDIDATES)}; name its weight file: hf://{name}/FILE",
        ),
        (status == 401, f"{endpoint} does not know who asks for {name}; {LOG_IN}"),
        (status == 403, f"{endpoint} does not allow this for {name}; use a token that may write to it"),
        (
            is_("LocalEntryNotFoundError"),
            f"cannot reach {endpoint} for {wanted}: {reason(causes[-1])}; check the connection, or download the "
            "file elsewhere and pass its path",
        ),
        (True, f"{wanted}: the exchange with {endpoint} failed: {reason(error)}; try again"),
    )
    return UserError(next(message for applies, message in cases if applies))


def _status(error: Exception) -> int | None:
    """Return the status of the HTTP response that an error is about, or None."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
