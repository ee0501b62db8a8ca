"""Find a source for a model: a folder, the hub, or this machine's cache where the hub cannot be reached.

Without a network, transformers requests each file again and again, for half a minute; here the hub is asked
once.
"""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from cola_envs.contract import one_line

#: A hub id, ``owner/name``.
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Seconds without an answer of the hub before a warning.
_SILENCE = 1.0


#: The files of a model that are fetched from the hub, and looked for in the cache.
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def reachable(source: str | Path, name: str = "model", revision: str | None = None) -> str:
    """A folder or hub id from which the model can be read.

    Args:
        source: a folder, which is returned unchanged, or a hub id.
        name: of the argument, for messages.
        revision: the commit of a hub id; None for its newest.

    Returns:
        The hub id where the hub answers; else, with a warning, the folder of this machine's cache.

    Raises:
        FileNotFoundError: for a source that is neither a folder nor a hub id, for a hub id that the hub does
            not know, and for one that is available neither from the hub nor from the cache.
    """
    from huggingface_hub import snapshot_download

    source = str(source)
    if Path(source).exists():
        return source
    problem = f"{name}={source!r} is no folder here"
    if Path(source).is_absolute() or not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{problem}, and no hub id (owner/name)")
    failure = _asked(source, revision)
    if failure is None:
        return source
    if isinstance(failure, RepositoryNotFoundError):
        raise FileNotFoundError(
            f"{problem}, and {constants.ENDPOINT} shows no model of that name: check the spelling; if it is "
            "private, log in with `hf auth login`"
        ) from failure
    reason = f"{constants.ENDPOINT} cannot be reached ({one_line(failure)})"
    if isinstance(failure, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    try:
        folder = snapshot_download(
            source, revision=revision, local_files_only=True, allow_patterns=list(FILES)
        )
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{problem}, is not in this machine's cache ({constants.HF_HUB_CACHE}), and cannot be fetched: "
            f"{reason}. Load it once with a network, or copy its folder here and pass the path"
        ) from failure
    warnings.warn(f"{name}={source!r} is read from this machine's cache: {reason}", UserWarning, stacklevel=3)
    return folder


def _asked(source: str, revision: str | None) -> Exception | None:
    """Ask the hub for a model, in bounded time; return None where it has it, else the error."""
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(source, revision=revision, timeout=timeout)
            answers.append(None)
        except Exception as error:  # also the HTTP library's own, whose classes differ between versions
            answers.append(error)

    # In a thread, because resolving a host name has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SILENCE)
    if not answers:
        warnings.warn(
            f"{constants.ENDPOINT} has not answered for {_SILENCE:g} s; waiting up to {timeout} s (set "
            "HF_HUB_ETAG_TIMEOUT for another limit, or HF_HUB_OFFLINE=1 where there is no network)",
            UserWarning,
            stacklevel=4,
        )
        thread.join(timeout)
    return answers[0] if answers else TimeoutError(f"no answer within {timeout} s")
