"""Saving with a card, and pushing to and pulling from a hub that is a folder here."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_agents.model.hub
from cola_agents.decoding.loading import make_backbone
from cola_agents.model.modeling import CoLAForCausalLM

REPO = "somebody/their-model"


class FolderHub:
    """What of the hub's interface a push uses; each commit becomes a snapshot in a local hub cache."""

    def __init__(self, cache: Path) -> None:
        self.repo = cache / f"models--{REPO.replace('/', '--')}"
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **kwargs: Any) -> Any:
        assert kwargs["exist_ok"]
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id: str, name: str, **kwargs: Any) -> bool:
        return name in self.files

    def upload_file(self, *, path_or_fileobj: bytes, path_in_repo: str, **kwargs: Any) -> None:
        self._commit({path_in_repo: path_or_fileobj})

    def create_commit(self, repo_id: str, operations: list[Any], **kwargs: Any) -> None:
        self._commit({o.path_in_repo: Path(o.path_or_fileobj).read_bytes() for o in operations})

    def card(self, repo_id: str, **kwargs: Any) -> Any:
        if "README.md" not in self.files:
            raise EntryNotFoundError("there is no card")
        return huggingface_hub.ModelCard(self.files["README.md"].decode())

    def snapshot_download(self, **kwargs: Any) -> str:
        return huggingface_hub.snapshot_download(**kwargs)

    def _commit(self, new: dict[str, bytes]) -> None:
        self.files |= new
        commit = hashlib.sha1(repr(sorted(self.files)).encode()).hexdigest()
        snapshot = self.repo / "snapshots" / commit
        shutil.rmtree(snapshot, ignore_errors=True)
        for name, data in self.files.items():
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).write_bytes(data)
        (self.repo / "refs").mkdir(exist_ok=True)
        (self.repo / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FolderHub:
    folder = FolderHub(tmp_path / "hub")
    monkeypatch.setattr("transformers.utils.hub.hf_api", lambda: folder)
    monkeypatch.setattr("transformers.utils.hub.ModelCard.load", folder.card)
    monkeypatch.setattr(cola_agents.model.hub, "HfApi", lambda: folder)
    return folder


@torch.no_grad()
def test_what_was_pushed_is_pulled_with_all_that_it_needs(hub, tmp_path, tiny_cola, tiny_tokenizer):
    tiny_cola.push_to_hub(REPO)
    tiny_tokenizer.push_to_hub(REPO)
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert needed <= set(hub.files)
    assert not any(name.endswith((".bin", ".pt", ".py", ".pkl")) for name in hub.files)
    card = hub.files["README.md"].decode()
    assert f'CoLAForCausalLM.from_pretrained("{REPO}")' in card
    assert "latent-actions" in card
    pull: dict[str, Any] = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    ids = torch.tensor([[5, 6, 7, 8]])
    for cls in (CoLAForCausalLM, AutoModelForCausalLM):
        pulled = cls.from_pretrained(REPO, **pull)
        assert isinstance(pulled, CoLAForCausalLM)
        assert torch.equal(pulled(ids).logits, tiny_cola(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(REPO, **pull)
    text = "Q: 8+6=?\nA:"
    assert tokenizer.encode(text) == tiny_tokenizer.encode(text)
    backbone = make_backbone(pulled, level="latent", tokenizer=tokenizer)
    assert backbone.action_space.n == tiny_cola.config.num_codes


def test_a_push_keeps_the_card_that_is_there(hub, tiny_cola):
    hub.upload_file(path_or_fileobj=b"---\ntags: []\n---\nMine.\n", path_in_repo="README.md")
    tiny_cola.push_to_hub(REPO)
    assert "Mine." in hub.files["README.md"].decode()
    assert "latent-action" not in hub.files["README.md"].decode()


def test_a_saved_folder_has_a_card_and_keeps_the_one_it_had(tiny_cola, tmp_path):
    tiny_cola.save_pretrained(tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    assert "16 codes" in card
    assert "base: `llama`, 2 layers of width 32, 288 tokens" in card
    assert str(tmp_path) not in card
    loaded = CoLAForCausalLM.from_pretrained(tmp_path / "new")
    loaded.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "README.md").read_text(), "a path is nobody's business"
    (tmp_path / "new" / "README.md").write_text("Mine.")
    loaded.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "README.md").read_text() == "Mine."


@pytest.mark.parametrize("span", [None, 1])
def test_a_model_of_another_kind_is_refused_with_what_takes_it(tiny_base, tmp_path, span):
    tiny_base.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"holds a llama model, not a latent-action .*from_base"):
        CoLAForCausalLM.from_pretrained(tmp_path / "base", **({} if span is None else {"span": span}))
    fields = json.loads((tmp_path / "base" / "config.json").read_text()) | {"num_code": 8, "v": 1}
    (tmp_path / "base" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"in the authors' format: .*from_official.*without --whole"):
        CoLAForCausalLM.from_pretrained(tmp_path / "base")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"num_policy_layers": 3}, "missing keys, policy_trunk"), ({"num_policy_layers": 1}, "unexpected keys")],
)
def test_weights_that_contradict_their_config_are_refused(tiny_cola, tmp_path, changed, message):
    tiny_cola.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        CoLAForCausalLM.from_pretrained(tmp_path, **changed)
