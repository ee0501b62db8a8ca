"""Latent parts that are saved without their base, and what they are joined with when they are loaded."""

from __future__ import annotations

import copy
import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from cola_agents.decoding.loading import make_backbone
from cola_agents.model import hub as hub_module
from cola_agents.model.base_reference import REFERENCE, Base, digest_of
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.shards import find_tensors
from tests.model.test_hub import REPO, FolderHub, hub  # noqa: F401 (a fixture)
from tests.tiny import make_base, make_tokenizer

GROWN = {"num_codes": 8, "num_inverse_layers": 1, "num_merge_layers": 1, "num_policy_layers": 1}


@pytest.fixture
def base(tmp_path) -> Path:
    make_base().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def grown(base: Any, **more: Any) -> CoLAForCausalLM:
    return CoLAForCausalLM.from_base(base, seed=0, zero_start=False, **{**GROWN, **more}).eval()


def same(one: CoLAForCausalLM, other: CoLAForCausalLM) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def written(folder: Path) -> set[str]:
    return {name.partition(".")[0] for name in find_tensors(folder)}


@pytest.mark.parametrize("tied", [False, True])
def test_latent_parts_are_written_alone_and_loaded_with_their_base(base, tmp_path, tied) -> None:
    if tied:
        make_base(tie_word_embeddings=True).save_pretrained(base)
    model = grown(base, readout="normed_difference")
    model.save_pretrained(tmp_path / "latent")
    latent = {"inverse_trunk", "inverse_head", "codebook", "merge", "policy_trunk", "policy_head"}
    assert written(tmp_path / "latent") == latent | {"readout_norm"}
    assert json.loads((tmp_path / "latent" / REFERENCE).read_text()) == {
        "folder": "../base",
        "sha256": digest_of(base),
    }
    model.save_pretrained(tmp_path / "whole", whole=True)
    assert written(tmp_path / "whole") > latent
    assert not (tmp_path / "whole" / REFERENCE).exists()
    for load in (CoLAForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        again = load(tmp_path / "latent").eval()
        assert same(again, model)
        assert again.config.to_diff_dict() == load(tmp_path / "whole").config.to_diff_dict()
        assert again.generation_config.to_dict() == model.generation_config.to_dict()
        assert again.name_or_path == str(tmp_path / "latent")
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_latent_parts_without_a_tokenizer_play_with_that_of_their_base(base, tmp_path) -> None:
    grown(AutoModelForCausalLM.from_pretrained(base)).save_pretrained(tmp_path / "latent")
    assert not list((tmp_path / "latent").glob("tokenizer*"))
    backbone = make_backbone(tmp_path / "latent", level="latent")
    assert backbone.tokenizer.encode("a cat") == make_backbone(base, level="token").tokenizer.encode("a cat")


def test_an_environment_over_latent_parts_has_the_fingerprint_of_the_whole_model(base, tmp_path) -> None:
    model = grown(base)
    for name, whole in (("latent", None), ("whole", True)):
        model.save_pretrained(tmp_path / name, whole=whole)
        make_tokenizer().save_pretrained(tmp_path / name)
    for dtype in ("float32", "bfloat16"):
        latent, whole = (
            make_backbone(str(tmp_path / name), level="latent", dtype=dtype) for name in ("latent", "whole")
        )
        assert latent.fingerprint == whole.fingerprint
        assert latent.model.dtype == getattr(torch, dtype)


def test_parts_in_bfloat16_of_a_base_in_float32_come_back_in_bfloat16(base, tmp_path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = grown(loaded)
    model.save_pretrained(tmp_path / "latent", whole=False)
    again = CoLAForCausalLM.from_pretrained(tmp_path / "latent")
    assert again.dtype == torch.bfloat16
    assert same(again, model)


def test_a_model_is_not_saved_over_its_own_base(base, tmp_path, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    model = grown(base)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path / "other")
    placeless = grown(make_base())
    for folder in (base, "base", Path("nowhere/../base")):
        for saved, named in ((model, None), (model, "other"), (placeless, base), (placeless, "base")):
            with pytest.raises(ValueError, match=r"holds the base of this model.*give another folder"):
                saved.save_pretrained(folder, base=named)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_a_save_leaves_no_weights_of_an_earlier_one(base, tmp_path) -> None:
    model, folder = grown(base), tmp_path / "saved"
    folder.mkdir()
    (folder / "model_of_mine.safetensors").write_bytes(b"kept")
    for options in ({}, {"whole": True, "max_shard_size": "100KB"}, {}, {"whole": True}):
        model.save_pretrained(folder, **options)
        assert same(CoLAForCausalLM.from_pretrained(folder), model), options
    assert (folder / "model_of_mine.safetensors").read_bytes() == b"kept"


class Killed(BaseException):
    """Simulates a kill."""


def kill_at_file(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kill a save before it moves file ``number``, counted from 0, to its place."""
    move, moved = os.replace, count()

    def moving(one: Path, other: Path) -> None:
        leaves = Path(one).parent.name.startswith(".moving-") and Path(other).parent == Path(one).parents[1]
        if leaves and next(moved) == number:
            raise Killed
        move(one, other)

    monkeypatch.setattr(os, "replace", moving)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("reader", ["load", "weights", "save"])
def test_a_save_over_another_model_that_is_killed_is_finished_by_who_comes_next(
    base, tmp_path, monkeypatch, number, reader
) -> None:
    """The other one has another base and more codes, so that no file of one goes with those of the other."""
    make_base(seed=1).save_pretrained(tmp_path / "other")
    grown(base).save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    new = CoLAForCausalLM.from_base(tmp_path / "other", **{**GROWN, "num_codes": 12}, seed=0)
    kill_at_file(monkeypatch, number)
    with pytest.raises(Killed):
        new.save_pretrained(tmp_path / "saved")
    monkeypatch.undo()
    if reader == "save":
        grown(base).save_pretrained(tmp_path / "saved")
    elif reader == "weights":
        assert find_tensors(tmp_path / "saved")["codebook.weight"].shape[0] == 12
    if reader != "save":
        assert same(CoLAForCausalLM.from_pretrained(tmp_path / "saved"), new)
    assert not list((tmp_path / "saved").glob(".moving*"))
    grown(tmp_path / "other").save_pretrained(tmp_path / "saved")
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "saved"), grown(tmp_path / "other"))


@pytest.mark.parametrize(("before", "after"), [(None, None), (None, True), (True, None), (True, True)])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_save_that_is_killed_leaves_the_old_model_or_the_new_one(
    base, tmp_path, monkeypatch, number, before, after
) -> None:
    model, folder = grown(base), tmp_path / "saved"
    model.save_pretrained(folder, whole=before)
    new = copy.deepcopy(model)
    with torch.no_grad():
        new.codebook.weight.add_(1)
    kill_at_file(monkeypatch, number)
    with suppress(Killed):
        new.save_pretrained(folder, whole=after)
    monkeypatch.undo()
    again = CoLAForCausalLM.from_pretrained(folder)
    assert same(again, model) or same(again, new)
    assert not list(folder.glob(".saving*"))


def test_two_writers_of_one_folder_do_not_meet(base, tmp_path) -> None:
    model, folder = grown(base), tmp_path / "saved"
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(model.save_pretrained, folder) for _ in range(6)]:
            done.result()
    assert same(CoLAForCausalLM.from_pretrained(folder), model)
    assert not list(folder.glob(".saving*"))


def test_of_two_saves_at_once_one_follows_the_other(tmp_path, monkeypatch) -> None:
    """The second begins when the first has planned its moves, and would come between without a lock."""
    folder, steps = tmp_path / "saved", hub_module._steps
    first, second = (grown(make_base(), num_codes=codes) for codes in (8, 12))
    threads: list[threading.Thread] = []

    def planned(*given: Path) -> Any:
        planned_steps = steps(*given)
        if not threads:
            threads.append(threading.Thread(target=second.save_pretrained, args=(folder,)))
            threads[0].start()
            threads[0].join(2)
        return planned_steps

    monkeypatch.setattr(hub_module, "_steps", planned)
    first.save_pretrained(folder, max_shard_size="20KB")
    threads[0].join()
    assert same(CoLAForCausalLM.from_pretrained(folder), second)
    assert not [path.name for path in folder.glob("model-*")]


def test_a_save_into_a_folder_of_links_replaces_the_links(base, tmp_path) -> None:
    store, folder = tmp_path / "store", tmp_path / "saved"
    grown(base).save_pretrained(store, whole=True)
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    folder.mkdir()
    for path in store.iterdir():
        (folder / path.name).symlink_to(path)
    new = grown(base, num_codes=12)
    new.save_pretrained(folder, whole=True)
    assert same(CoLAForCausalLM.from_pretrained(folder), new)
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before
    kept = [path.name for path in folder.iterdir() if path.is_symlink()]
    assert kept == ["README.md"]  # a card that is there is kept


def test_a_save_where_a_folder_has_the_name_of_a_file_changes_nothing(base, tmp_path) -> None:
    model, folder = grown(base), tmp_path / "saved"
    model.save_pretrained(folder)
    (folder / "model.safetensors.index.json").mkdir()
    with pytest.raises(IsADirectoryError, match="nothing was changed"):
        grown(base, num_codes=12).save_pretrained(folder, whole=True, max_shard_size="20KB")
    assert same(CoLAForCausalLM.from_pretrained(folder), model)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_threads_that_load_at_once_get_tied_models_and_leave_transformers_as_it_was(tmp_path) -> None:
    make_base(tie_word_embeddings=True).save_pretrained(tmp_path)
    ties = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: CoLAForCausalLM.from_base(tmp_path, **GROWN), range(12)))
    assert PreTrainedModel.tie_weights is ties
    assert all(model.lm_head.weight is model.base.embed_tokens.weight for model in models)


def test_a_save_removes_what_a_kill_left_behind_an_hour_ago_and_nothing_younger(base, tmp_path) -> None:
    folder = tmp_path / "saved"
    for name, age in (("old", 4000), ("new", 10)):
        left = folder / f".saving-{name}"
        left.mkdir(parents=True)
        (left / "config.json").write_text("{}")
        for path in (left / "config.json", left):
            os.utime(path, 2 * (time.time() - age,))
    grown(base).save_pretrained(folder)
    assert [path.name for path in folder.glob(".saving*")] == [".saving-new"]


def test_a_subclass_with_a_configuration_of_its_own_is_loaded(base, tmp_path) -> None:
    class OwnConfig(CoLAConfig):
        model_type = "own-cola"

    class Own(CoLAForCausalLM):
        config_class = OwnConfig

    model = Own(OwnConfig.from_dict(grown(base).config.to_dict()))
    model.save_pretrained(tmp_path / "own", whole=True)
    assert same(Own.from_pretrained(tmp_path / "own"), model)


@pytest.mark.parametrize("whole", [None, True])
def test_a_save_that_fails_leaves_the_model_that_was_there(base, tmp_path, monkeypatch, whole) -> None:
    model, folder = grown(base), tmp_path / "saved"
    model.save_pretrained(folder, whole=whole)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*given: Any, **options: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    with pytest.raises(ValueError, match="XB"):
        model.save_pretrained(folder, whole=True, max_shard_size="5XB")
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    for now in (None, True):
        with pytest.raises(OSError, match=f"{folder} could not be written: .*File too large"):
            model.save_pretrained(folder, whole=now)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert same(CoLAForCausalLM.from_pretrained(folder), model)


def test_a_variant_is_refused_and_the_weights_beside_it_stay(base, tmp_path) -> None:
    model = grown(base)
    for whole in (None, True):
        model.save_pretrained(tmp_path / "saved", whole=whole)
        with pytest.raises(ValueError, match=r"variant='fp16': .* a folder of its own"):
            model.save_pretrained(tmp_path / "saved", whole=whole, variant="fp16")
        assert same(CoLAForCausalLM.from_pretrained(tmp_path / "saved"), model)


def test_a_loaded_model_is_saved_with_the_same_base_again(base, tmp_path) -> None:
    grown(base).save_pretrained(tmp_path / "one")
    again = CoLAForCausalLM.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        again.codebook.weight.add_(1)
    again.save_pretrained(tmp_path / "deeper" / "two")
    assert json.loads((tmp_path / "deeper" / "two" / REFERENCE).read_text())["folder"] == "../../base"
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "deeper" / "two"), again)


def test_a_base_that_was_trained_is_written_with_its_parts(base, tmp_path) -> None:
    model = grown(base)
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        model.base.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"mlp.up_proj.weight of its base differ .* whole=True"):
        model.save_pretrained(tmp_path / "out", whole=False)
    model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / REFERENCE).exists()
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "out"), model)


def test_a_model_on_a_base_without_a_place_is_written_whole(tmp_path) -> None:
    model = grown(make_base())
    with pytest.raises(ValueError, match="was not built on a folder or hub id; pass whole=True"):
        model.save_pretrained(tmp_path, whole=False)
    model.save_pretrained(tmp_path)
    assert same(CoLAForCausalLM.from_pretrained(tmp_path), model)
    with pytest.raises(ValueError, match=r"holds a whole model, or .*: leave base= out"):
        CoLAForCausalLM.from_pretrained(tmp_path, base=tmp_path)


def test_a_base_that_is_gone_while_its_model_is_in_memory_is_written_with_a_warning(base, tmp_path) -> None:
    model = grown(base)
    shutil.rmtree(base)
    with pytest.warns(UserWarning, match="all weights are written, since its base .* cannot be read"):
        model.save_pretrained(tmp_path / "out")
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "out"), model)


def test_parts_and_base_may_be_moved_together_and_a_moved_base_is_given(base, tmp_path) -> None:
    model = grown(base)
    (tmp_path / "here").mkdir()
    shutil.move(base, tmp_path / "here" / "base")
    model.origin = Base.named(tmp_path / "here" / "base")
    model.save_pretrained(tmp_path / "here" / "latent")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "there" / "latent"), model)
    shutil.move(tmp_path / "there" / "base", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"without its base, and the base .*there/base cannot be"):
        CoLAForCausalLM.from_pretrained(tmp_path / "there" / "latent")
    again = CoLAForCausalLM.from_pretrained(tmp_path / "there" / "latent", base=tmp_path / "moved")
    assert same(again, model)
    again.save_pretrained(tmp_path / "there" / "latent")
    assert same(CoLAForCausalLM.from_pretrained(tmp_path / "there" / "latent"), model)


def test_fields_of_the_configuration_may_be_given_as_for_a_whole_model(base, tmp_path) -> None:
    model = grown(base)
    model.save_pretrained(tmp_path / "latent")
    changed = {"attn_implementation": "eager", "detach_state": False, "dtype": "bfloat16"}
    again = CoLAForCausalLM.from_pretrained(tmp_path / "latent", **changed)
    assert (again.config._attn_implementation, again.config.detach_state) == ("eager", False)
    assert again.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="missing keys, policy_trunk"):
        CoLAForCausalLM.from_pretrained(tmp_path / "latent", num_policy_layers=2)


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.int8])
def test_a_type_that_is_no_floating_type_is_refused(base, tmp_path, dtype) -> None:
    for whole in (None, True):
        grown(base).save_pretrained(tmp_path / "saved", whole=whole)
        for name in ("dtype", "torch_dtype"):
            with pytest.raises(ValueError, match=r"dtype .* is no floating type.*bfloat16"):
                CoLAForCausalLM.from_pretrained(tmp_path / "saved", **{name: dtype})


def test_another_base_is_refused_with_both_digests(base, tmp_path) -> None:
    grown(base).save_pretrained(tmp_path / "latent")
    before = digest_of(base)
    make_base(seed=1).save_pretrained(base)
    with pytest.raises(ValueError, match=rf"the sha256 {before[:12]}.*have {digest_of(base)[:12]}.*base="):
        CoLAForCausalLM.from_pretrained(tmp_path / "latent")


def test_a_digest_is_of_the_weights_and_not_of_their_files(base, tmp_path) -> None:
    model = make_base()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert digest_of(tmp_path / "sharded") == digest_of(base)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert digest_of(tmp_path / "half") != digest_of(base)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folder": "../base"}, "has no sha256"),
        ({"sha256": "0" * 64}, "names no base: it needs folder, or hub"),
        ({"hub": "not an id", "sha256": "0" * 64}, "names no base"),
    ],
)
def test_a_reference_that_is_none_is_named(base, tmp_path, fields, message) -> None:
    grown(base).save_pretrained(tmp_path / "latent")
    (tmp_path / "latent" / REFERENCE).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        CoLAForCausalLM.from_pretrained(tmp_path / "latent")


def test_a_push_of_a_model_on_a_folder_holds_all_weights(hub: FolderHub, base, tmp_path) -> None:  # noqa: F811
    model = grown(base)
    with pytest.raises(ValueError, match="is a folder of this machine, which others cannot read"):
        model.push_to_hub(REPO, whole=False)
    model.push_to_hub(REPO)
    assert REFERENCE not in hub.files
    pull = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    assert same(CoLAForCausalLM.from_pretrained(REPO, **pull), model)
    model.save_pretrained(tmp_path / "after")
    assert (tmp_path / "after" / REFERENCE).exists(), "a push leaves later saves as they were"


def test_a_push_of_a_model_on_a_hub_id_holds_the_parts_alone(
    hub: FolderHub,  # noqa: F811
    base,
    tmp_path,
    monkeypatch,
) -> None:
    commit = "0123456789" * 4
    cached = tmp_path / "hub" / "models--their--base"
    shutil.copytree(base, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.warns(UserWarning, match="read from this machine's cache"):
        model = grown("their/base")
    assert model.origin is not None
    assert (model.origin.source, model.origin.is_folder) == ("their/base", False)
    with pytest.warns(UserWarning, match="read from this machine's cache"):
        model.push_to_hub(REPO)
    reference = json.loads(hub.files[REFERENCE])
    assert reference == {"hub": "their/base", "revision": model.origin.revision, "sha256": digest_of(base)}
    assert "base_model: their/base" in hub.files["README.md"].decode()
    pull = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    pulled = CoLAForCausalLM.from_pretrained(REPO, **pull)
    assert same(pulled, model)
    copy.deepcopy(model).push_to_hub(REPO, whole=True)
    shutil.rmtree(cached)
    assert same(CoLAForCausalLM.from_pretrained(REPO, **pull), model)


def test_a_save_with_push_to_hub_pushes_what_can_be_loaded(hub: FolderHub, base, tmp_path) -> None:  # noqa: F811
    model = grown(base)
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=REPO)
    assert (tmp_path / "saved" / REFERENCE).exists()
    pull = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    assert same(CoLAForCausalLM.from_pretrained(REPO, **pull), model)
    with pytest.raises(ValueError, match="push_to_hub=True pushes the model's own weights"):
        model.save_pretrained(tmp_path / "x", push_to_hub=True, repo_id=REPO, state_dict=model.state_dict())
