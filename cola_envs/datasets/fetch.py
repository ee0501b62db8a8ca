"""Download a data set into the folder of fetched files: checked, resumable and atomic."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from cola_envs.datasets.catalogue import DataFile, files_of
from cola_envs.datasets.problems import is_pinned, read_plain

_TIMEOUT = 30.0
_BLOCK = 1 << 20


class _WrongBytes(ValueError):
    """The received bytes are not the pinned file."""


def fetch(
    dataset: str, source: str | Path | None = None, report: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Fetch the files of a data set into the folder of fetched files.

    A correct file is kept. An interrupted download resumes. Bytes without a pinned sha256 are not stored.

    Args:
        dataset: ``"math500"``, ``"math"`` or ``"gsm8k"``.
        source: a file, or a folder with the files under any name (``.jsonl`` or ``.jsonl.gz``; their bytes
            identify them), as a path or a ``file://`` URL; None to download them.
        report: called with messages about the progress.

    Returns:
        The paths of the files.

    Raises:
        ValueError: for an unknown data set, or a file other than the pinned one.
        FileNotFoundError: if the source does not exist or does not contain the file.
        ConnectionError: if no download address can be reached.
    """
    local = None if source is None else _local_files(source)
    paths = []
    for file in files_of(dataset):
        if is_pinned(file, file.path):
            report(f"{file.path} is there already")
        elif local is None:
            _download(file, report)
        else:
            _store(file, _matching(file, local), report)
        paths.append(file.path)
    return paths


def _sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pinned(file: DataFile) -> str:
    return " or ".join(pin.sha256 for pin in file.pins)


def _local_files(source: str | Path) -> list[Path]:
    text = str(source)
    if "://" in text:
        parsed = urllib.parse.urlparse(text)
        if parsed.scheme != "file":
            raise ValueError(f"the source {text!r} must be a path or a file:// URL, not {parsed.scheme}://")
        text = urllib.request.url2pathname(parsed.path)
    path = Path(text).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"the source {str(source)!r} is neither a file nor a folder")
    return sorted(p for pattern in ("*.jsonl", "*.jsonl.gz") for p in path.rglob(pattern) if p.is_file())


def _matching(file: DataFile, candidates: list[Path]) -> bytes:
    """The bytes of a candidate with a pinned sha256, the preferred pin first."""
    by_sha256 = {}
    for path in candidates:
        plain = read_plain(path)
        by_sha256[_sha256_of(plain)] = (path, plain)
    for pin in file.pins:
        if pin.sha256 in by_sha256:
            return by_sha256[pin.sha256][1]
    contents = (
        "; ".join(f"{path.name} has {sha256}" for sha256, (path, _) in by_sha256.items()) or "no .jsonl file"
    )
    error = ValueError if len(candidates) == 1 else FileNotFoundError
    raise error(
        f"the source holds no {file.title} ({file.split}), whose sha256 is {_pinned(file)}; "
        f"it holds: {contents}"
    )


def _store(file: DataFile, data: bytes, report: Callable[[str], None]) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.replace(beside, file.path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    report(f"Wrote {file.path}: {file.title}, {file.split}. Licence: {file.terms}")


def _addresses(file: DataFile) -> list[str]:
    addresses = [file.url]
    if file.hub is not None:
        from huggingface_hub import hf_hub_url

        repository, revision, name = file.hub
        addresses.insert(0, hf_hub_url(repository, name, repo_type="dataset", revision=revision))
    return addresses


def _download(file: DataFile, report: Callable[[str], None]) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    wrong = False
    for address in _addresses(file):
        part = file.path.with_name(f".{file.path.name}-{_sha256_of(address.encode())[:8]}.part")
        report(f"Fetching {address}")
        try:
            _receive(address, part, max(pin.size for pin in file.pins))
            sha256 = _sha256_of(part.read_bytes())
            if sha256 not in [pin.sha256 for pin in file.pins]:
                raise _WrongBytes(f"the received file has the sha256 {sha256}, not {_pinned(file)}")
        except _WrongBytes as error:
            part.unlink(missing_ok=True)
            wrong = True
            failures.append(f"{address}: {error}")
        except (OSError, HTTPException) as error:
            failures.append(f"{address}: {error}")
        else:
            os.replace(part, file.path)
            report(f"Wrote {file.path}: {file.title}, {file.split}. Licence: {file.terms}")
            return
    kind = ValueError if wrong else ConnectionError
    raise kind(
        f"{file.title} ({file.split}) could not be fetched. {'; '.join(failures)}. Try again (a download "
        "resumes where it stopped), or get the file in another way and pass its folder: "
        f"cola data fetch {file.dataset} --from FOLDER"
    )


def _receive(address: str, part: Path, largest: int) -> None:
    """Download ``address`` into ``part``, resuming after its current bytes.

    Raises:
        OSError, HTTPException: if the connection fails; ``part`` then holds the bytes received so far.
        _WrongBytes: if more bytes arrive than the file can have.
    """
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": the part is complete, or of another file
            raise
        return
    with response, part.open("ab" if response.status == 206 else "wb") as out:
        while block := response.read(_BLOCK):
            out.write(block)
            if out.tell() > largest:
                raise _WrongBytes(f"more than the file's {largest} bytes were received")
        expected = response.headers.get("Content-Length")
        received = out.tell() - (start if response.status == 206 else 0)
    if expected is not None and received < int(expected):
        raise ConnectionError(f"the connection ended after {received} of {expected} bytes")
