"""Where a model of a hub id is read from: the hub, or this machine's cache where the hub cannot be reached.

Transformers asks for each of its files again and again, for half a minute, before it says that there is no
network; here the hub is asked once.
"""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from cola_envs.contract import one_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: Seconds without an answer of the hub after which a user is told what is waited for.
_SILENCE = 1.0


def reachable(source: str | Path, name: str = "model") -> str:
    """A folder or hub id that can be read from now.

    Args:
        source: a folder, which is returned as it is, or a hub id.
        name: of the argument, for messages.

    Returns:
        The hub id where the hub answers; else, with a warning, the folder of this machine's cache.

    Raises:
        FileNotFoundError: for what is neither a folder here nor a hub id, for a hub id that the hub does not
            know, and for one that can be had neither from the hub nor from the cache.
    """
    from huggingface_hub import snapshot_download

    source = str(source)
    if Path(source).exists():
        return source
    told = f"{name}={source!r} is no folder here"
    if Path(source).is_absolute() or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{told}, and no hub id (owner/name)")
    failure = _asked(source)
    if failure is None:
        return source
    if isinstance(failure, RepositoryNotFoundError):
        raise FileNotFoundError(
            f"{told}, and {constants.ENDPOINT} shows no model of that name: see to the spelling; where it is "
            "private, log in with `hf auth login`"
        ) from failure
    reason = f"{constants.ENDPOINT} cannot be reached ({one_line(failure)})"
    if isinstance(failure, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    try:
        folder = snapshot_download(source, local_files_only=True)
    except LocalEntryNotFoundError:
        raise FileNotFoundError(
            f"{told}, is not in this machine's cache ({constants.HF_HUB_CACHE}), and cannot be fetched: "
            f"{reason}. Load it once with a network, or copy its folder here and pass the path"
        ) from failure
    warnings.warn(f"{name}={source!r} is read from this machine's cache: {reason}", UserWarning, stacklevel=3)
    return folder


def _asked(source: str) -> Exception | None:
    """Ask the hub for a model: None where it has it, or what went wrong, in bounded time."""
    patience = constants.HF_HUB_ETAG_TIMEOUT
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(source, timeout=patience)
            answers.append(None)
        except Exception as error:  # also the HTTP library's own, whose classes differ between versions
            answers.append(error)

    # In a thread: looking up a host's name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_SILENCE)
    if not answers:
        warnings.warn(
            f"{constants.ENDPOINT} has not answered for {_SILENCE:g} s; waiting up to {patience} s (set "
            "HF_HUB_ETAG_TIMEOUT for another limit, or HF_HUB_OFFLINE=1 where there is no network)",
            UserWarning,
            stacklevel=4,
        )
        thread.join(patience)
    return answers[0] if answers else TimeoutError(f"no answer within {patience} s")
