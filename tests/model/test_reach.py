"""A hub id without a network is said at once, and what is on this machine is read all the same."""

from __future__ import annotations

import threading
import time
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

import cola_agents.model.reach
from cola_agents.decoding.loading import BUNDLED, make_backbone
from cola_agents.model.reach import FILES, reachable
from cola_agents.train.reward import RewardModel


class Hub:
    """The hub's interface as ``reachable`` asks it: answers with an error, or late."""

    def __init__(self, failure: Exception | None, wait: float = 0.0) -> None:
        self.failure, self.wait = failure, wait
        self.asked: list[str] = []
        self.revisions: list[str | None] = []

    def __call__(self) -> Hub:
        return self

    def model_info(self, name: str, timeout: float, revision: str | None = None) -> None:
        self.asked.append(name)
        threading.Event().wait(self.wait)
        if self.failure is not None:
            raise self.failure


def unknown() -> RepositoryNotFoundError:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    error.args = ("404",)
    return error


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(failure: Exception | None, wait: float = 0.0, cached: str | None = None) -> Hub:
        hub = Hub(failure, wait)
        monkeypatch.setattr(cola_agents.model.reach, "HfApi", hub)

        def snapshot(
            name: str, local_files_only: bool, revision: str | None, allow_patterns: list[str]
        ) -> str:
            assert local_files_only
            assert allow_patterns == list(FILES), "as they were fetched"
            hub.revisions.append(revision)
            if cached is None:
                raise LocalEntryNotFoundError("not here")
            return cached

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return hub

    return use


def test_a_hub_that_answers_is_loaded_from(use: Any) -> None:
    hub = use(None)
    assert reachable("some/name") == "some/name"
    assert hub.asked == ["some/name"]


def test_a_folder_asks_nobody(use: Any) -> None:
    hub = use(OSError("no network"))
    assert reachable(BUNDLED / "cola") == str(BUNDLED / "cola")
    for name in ("/nowhere/at/all", "no hub id", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no folder here, and no hub id"):
            reachable(name)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError("[Errno -2] Name or service not known"), r"cannot be reached \(OSError: .*Name or service"),
        (ValueError("a proxy's\npage"), r"cannot be reached \(ValueError: a proxy's\\npage\)"),
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_without_a_network_the_error_says_what_was_tried_and_what_to_do(
    use: Any, failure: Exception, message: str
) -> None:
    use(failure)
    with pytest.raises(FileNotFoundError, match=message) as raised:
        make_backbone("some/name", level="latent")
    for part in (
        "model='some/name' is no folder here",
        "not in this machine's cache",
        "copy its folder here",
    ):
        assert part in str(raised.value)
    with pytest.raises(FileNotFoundError, match="scorer='some/name'"):
        RewardModel("some/name")(["a"], ["b"])
    with pytest.raises((FileNotFoundError, ValueError), match="tokenizer"):
        make_backbone(BUNDLED / "cola", level="latent", tokenizer="some/name")


def test_a_name_that_the_hub_does_not_know_is_told_apart(use: Any) -> None:
    use(unknown())
    with pytest.raises(FileNotFoundError, match=r"shows no model of that name.*hf auth login"):
        reachable("some/name")


def test_a_model_in_the_cache_is_read_from_there(use: Any) -> None:
    use(OSError("no network"), cached=str(BUNDLED / "cola"))
    with pytest.warns(UserWarning, match="read from this machine's cache"):
        backbone = make_backbone("some/name", level="latent")
    assert len(backbone.tokenizer) > 0


def test_a_silent_hub_is_waited_for_in_bounded_time_and_aloud(
    use: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setattr(cola_agents.model.reach, "_SILENCE", 0.05)
    use(None, wait=3.0)
    started = time.monotonic()
    with (
        pytest.warns(UserWarning, match="has not answered for"),
        pytest.raises(FileNotFoundError, match="no answer within"),
    ):
        reachable("some/name")
    assert time.monotonic() - started < 2


def test_the_commit_of_a_model_is_looked_for_in_the_cache(use: Any) -> None:
    hub = use(OfflineModeIsEnabled("offline"), cached="/cache")
    with pytest.warns(UserWarning, match="is read from this machine's cache"):
        assert reachable("some/name", revision="0" * 40) == "/cache"
    assert hub.revisions == ["0" * 40]
