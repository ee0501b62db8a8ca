"""The official format: read exactly, refused clearly, mapped and not copied."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from cola_agents.cli import main
from cola_agents.decoding.loading import make_backbone
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.official import official_name
from cola_agents.model.shards import INDEX, read_header
from cola_agents.train.world import WORLD_MODULES, trained_parameters
from tests import tiny

H, KV, V, C, INNER = 32, 16, tiny.VOCAB, 8, 48
CONFIG: dict[str, Any] = {
    "architectures": ["IntentionForCausalLM"],
    "model_type": "llama",
    "v": 1,
    "num_code": C,
    "num_action_layer": 1,
    "num_dyna_layer": 2,
    "num_policy_layer": 1,
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.44.2",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_type": "llama3",
}


from_official = CoLAForCausalLM.from_official


def decoder_layer(prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.self_attn.q_proj.weight": (H, H),
        f"{prefix}.self_attn.k_proj.weight": (KV, H),
        f"{prefix}.self_attn.v_proj.weight": (KV, H),
        f"{prefix}.self_attn.o_proj.weight": (H, H),
        f"{prefix}.mlp.gate_proj.weight": (INNER, H),
        f"{prefix}.mlp.up_proj.weight": (INNER, H),
        f"{prefix}.mlp.down_proj.weight": (H, INNER),
        f"{prefix}.input_layernorm.weight": (H,),
        f"{prefix}.post_attention_layernorm.weight": (H,),
    }


def shapes(version: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official checkpoint, as the specification lists them."""
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (V, H),
        "lm_head.weight": (V, H),
        "model.norm.weight": (H,),
        "model.action_code_book.weight": (H, C),
        "model.policy_norm.weight": (H,),
        "model.policy_head.weight": (C, H),
    }
    out |= decoder_layer("model.layers.0") | decoder_layer("model.layers.1")
    out |= decoder_layer("model.policy_layers.0")
    for i in range(2):
        out[f"model.action_merge_layers.{i}.gate_proj.weight"] = (INNER, 2 * H)
        out[f"model.action_merge_layers.{i}.up_proj.weight"] = (INNER, 2 * H)
        out[f"model.action_merge_layers.{i}.down_proj.weight"] = (H, INNER)
    if version:
        out |= decoder_layer("model.action_layers.0")
        out |= {"model.action_norm.weight": (H,), "model.action_head.weight": (C, H)}
    return out


def weights(version: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes(version).items()}


def write(folder: Path, tensors: dict[str, Tensor] | None = None, shards: int = 1, **changed: Any) -> Path:
    """An official checkpoint; a field of the configuration that is set to ``...`` is left out."""
    folder.mkdir(exist_ok=True)
    config = {name: value for name, value in {**CONFIG, **changed}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = weights(config.get("v", 1)) if tensors is None else tensors
    names = list(tensors)
    index: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        inside = names[number::shards]
        save_file({name: tensors[name].contiguous() for name in inside}, folder / file)
        index |= dict.fromkeys(inside, file)
    if shards > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def same_weights(model: CoLAForCausalLM, tensors: dict[str, Tensor]) -> None:
    state = {official_name(name): tensor for name, tensor in model.state_dict().items()}
    state["model.action_code_book.weight"] = state["model.action_code_book.weight"].T
    assert set(state) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(state[name], tensor), name


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, tiny.TOKENIZER, (2, 9), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_tensor_arrives_under_its_name_and_nothing_else(version, shards, tmp_path, recwarn):
    model = from_official(write(tmp_path, shards=shards, v=version))
    same_weights(model, weights(version))
    assert not model.training
    assert not [w for w in recwarn if "rebuilt" in str(w.message)]


def test_versions_one_and_two_are_the_same_model(tmp_path, ids):
    one = from_official(write(tmp_path / "one", v=1))
    two = from_official(write(tmp_path / "two", v=2))
    assert torch.equal(one(ids).logits, two(ids).logits)


def test_at_the_released_sizes_there_are_410_tensors_and_11_235_602_432_weights():
    text = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        model = CoLAForCausalLM(CoLAConfig(text_config=text))
    assert len({official_name(name) for name in model.state_dict()}) == 410
    assert sum(p.numel() for p in model.parameters()) == 11_235_602_432


def test_version_zero_does_everything_but_infer(tmp_path, ids, tiny_tokenizer):
    model = from_official(write(tmp_path / "official", v=0, num_action_layer=...))
    assert model.config.num_inverse_layers == 0
    assert not model.config.detach_state
    assert model.generate(ids, max_new_tokens=3, eos_token_id=None).shape == (2, 12)
    h = model.hidden(ids)
    assert model.policy(h).shape == (2, 9, C)
    with pytest.raises(ValueError, match=r"no inverse dynamics.*v=0.*cannot be inferred"):
        model.infer(h)
    with pytest.raises(ValueError, match="no inverse dynamics"):
        trained_parameters(model, WORLD_MODULES)
    model.save_pretrained(tmp_path / "ours")
    again = CoLAForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert not again.config.detach_state


def test_tied_embeddings_give_the_head(tmp_path, ids):
    tensors = weights()
    head = tensors.pop("lm_head.weight")
    model = from_official(write(tmp_path, tensors, tie_word_embeddings=True))
    assert torch.equal(model.lm_head.weight, tensors["model.embed_tokens.weight"])
    assert model.lm_head.weight.data_ptr() != model.base.embed_tokens.weight.data_ptr()
    with pytest.raises(ValueError, match=r"ties lm_head.weight to model.embed_tokens.weight, but"):
        from_official(write(tmp_path, {**tensors, "lm_head.weight": head}, tie_word_embeddings=True))
    with pytest.raises(ValueError, match=r"1 of .*asks for.*lm_head\.weight"):
        from_official(write(tmp_path, tensors))


def test_end_of_text_comes_with_the_model_and_sampling_settings_do_not(tmp_path, ids):
    write(tmp_path)
    recorded = {"eos_token_id": [2, 7], "pad_token_id": 0, "do_sample": True, "temperature": 0.6}
    (tmp_path / "generation_config.json").write_text(json.dumps(recorded))
    model = from_official(tmp_path)
    assert model.generation_config.eos_token_id == [2, 7]
    assert not model.generation_config.do_sample
    settings: dict[str, Any] = {"max_new_tokens": 6}
    assert torch.equal(model.generate(ids, **settings), model.generate(ids, do_sample=False, **settings))


def test_an_official_folder_is_a_model_for_environments(tmp_path, tiny_tokenizer):
    write(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    latent = make_backbone(str(tmp_path), level="latent")
    assert latent.action_space.n == C
    assert make_backbone(from_official(tmp_path), level="latent").fingerprint == latent.fingerprint
    assert make_backbone(str(tmp_path), level="token").action_space.n == V


# ------------------------------------------------------------------ types and places


@pytest.mark.parametrize("rope_scaling", [None, LLAMA3])
@pytest.mark.parametrize("dtype", [None, "float32", torch.bfloat16])
def test_rotary_frequencies_are_exact_whatever_the_type(dtype, rope_scaling, tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in weights().items()}
    changed = {"rope_theta": 500000.0, "rope_scaling": rope_scaling}
    folder = write(tmp_path / "official", tensors, **changed)
    model: Any = from_official(folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {torch.float32 if dtype == "float32" else torch.bfloat16}
    expected: Any = CoLAForCausalLM(model.config)
    model.save_pretrained(tmp_path / "ours")
    others: list[Any] = [
        CoLAForCausalLM.from_pretrained(tmp_path / "ours"),
        from_official(folder, dtype="float32").to(torch.bfloat16),
        from_official(folder, dtype="float32").bfloat16(),
    ]
    for other in (model, *others):
        for name in ("base", "inverse_trunk", "policy_trunk"):
            rotary, exact = getattr(other, name).rotary_emb, getattr(expected, name).rotary_emb
            assert rotary.attention_scaling == exact.attention_scaling
            for buffer in ("inv_freq", "original_inv_freq"):
                assert getattr(rotary, buffer).dtype == torch.float32
                assert torch.equal(getattr(rotary, buffer), getattr(exact, buffer))
    if rope_scaling:
        plain = from_official(write(tmp_path / "plain", tensors, rope_theta=500000.0))
        assert not torch.equal(plain.base.rotary_emb.inv_freq, model.base.rotary_emb.inv_freq)


def test_a_bfloat16_base_keeps_exact_rotary_frequencies_when_a_model_is_grown(tiny_base):
    grown: Any = CoLAForCausalLM.from_base(tiny.make_base().bfloat16(), num_codes=4)
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown.base.rotary_emb.inv_freq, tiny_base.model.rotary_emb.inv_freq)


@torch.no_grad()
def test_bfloat16_files_in_float32_are_the_rounded_weights(tmp_path, ids):
    stored = {name: tensor.bfloat16() for name, tensor in weights().items()}
    exact = {name: tensor.float() for name, tensor in stored.items()}
    wide = from_official(write(tmp_path / "narrow", stored, torch_dtype="bfloat16"), dtype=torch.float32)
    same_weights(wide, exact)
    narrow = from_official(tmp_path / "narrow")
    same_weights(narrow, stored)
    h = wide.hidden(ids)
    assert (narrow.hidden(ids).float() - h).abs().max() < 0.1 * h.abs().max()
    stored["model.norm.weight"] = stored["model.norm.weight"].float()
    same_weights(from_official(write(tmp_path / "mixed", stored)), exact)


@pytest.mark.parametrize("dtype", ["int8", "float", torch.int64, "nothing"])
def test_a_type_that_is_no_floating_type_is_refused(dtype, tmp_path):
    write(tmp_path)
    if dtype == "float":  # torch.float is float32
        assert from_official(tmp_path, dtype=dtype).dtype == torch.float32
    else:
        with pytest.raises(ValueError, match=r"dtype .* is no floating type"):
            from_official(tmp_path, dtype=dtype)


def test_device_map_takes_a_device_and_auto_says_what_it_needs(tmp_path, monkeypatch):
    write(tmp_path)
    for device in ("cpu", torch.device("cpu")):
        same_weights(from_official(tmp_path, device_map=device), weights())
    with pytest.raises(TypeError, match="device_map is None, a device or 'auto'"):
        from_official(tmp_path, device_map={"": "cpu"})
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match="pip install accelerate"):
        from_official(tmp_path, device_map="auto")


@torch.no_grad()
def test_device_map_auto_gives_the_same_model(tmp_path, ids):
    pytest.importorskip("accelerate")
    write(tmp_path)
    model = from_official(tmp_path, device_map="auto")
    expected = from_official(tmp_path)(ids).logits
    torch.testing.assert_close(model(ids).logits.cpu(), expected, atol=1e-4, rtol=0)


MEASURE = """
import gc, json, os, sys
import torch
from cola_agents.model.modeling import CoLAForCausalLM; from_official = CoLAForCausalLM.from_official

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def grown(path, **settings):
    gc.collect()
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
    before = peak()
    model = from_official(path, **settings)
    with torch.no_grad():
        total = sum(float(p.flatten().max()) for p in model.parameters())  # every page is touched
    assert total == total
    return peak() - before

small, large = sys.argv[1:]
grown(small)
grown(small, dtype="float32")
print(json.dumps([grown(large), grown(large, dtype="float32")]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_peak_memory_is_below_1_15_times_the_weights(tmp_path):
    """120 MB in bfloat16, all pages touched; as stored, and widened one tensor at a time."""
    write(tmp_path / "small", {name: tensor.bfloat16() for name, tensor in weights().items()})
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 24000, "num_hidden_layers": 4}
    config = {**CONFIG, **sizes, "num_action_layer": 2, "num_policy_layer": 2}
    fields = {name: value for name, value in config.items() if name in LlamaConfig().to_dict()}
    with torch.device("meta"):
        layers = {"num_inverse_layers": 2, "num_merge_layers": 2, "num_policy_layers": 2}
        meta = CoLAForCausalLM(CoLAConfig(text_config=LlamaConfig(**fields), num_codes=C, **layers))
    large = {
        official_name(n): torch.rand(t.shape, dtype=torch.bfloat16) for n, t in meta.state_dict().items()
    }
    large["model.action_code_book.weight"] = large["model.action_code_book.weight"].T
    write(tmp_path / "large", large, **{k: v for k, v in config.items() if CONFIG.get(k) != v})
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > 100e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)},
    )
    stored, widened = json.loads(done.stdout)
    print(f"peak memory over weights: {stored / size:.3f} as stored, {widened / (2 * size):.3f} widened")
    assert stored / size < 1.15
    assert widened / (2 * size) < 1.15


# ------------------------------------------------------------------ which files


def broken_index(folder: Path) -> None:
    """The released repository's defect: an index of another save, of which no file is there."""
    index = dict.fromkeys(weights(), "model-00001-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("index", ["other files", "none"])
def test_the_map_is_rebuilt_from_the_shards_with_a_warning(index, tmp_path):
    write(tmp_path, shards=7)
    save_file({"model.norm.weight": torch.zeros(3)}, tmp_path / "golden.safetensors")
    save_file({"input_ids": torch.zeros(3)}, tmp_path / "model-extra.safetensors")
    if index == "none":
        (tmp_path / INDEX).unlink()
        reason = f"there is no {INDEX}"
    else:
        broken_index(tmp_path)
        reason = r"names files that are not there \(model-00001-of-00002\.safetensors\)"
    with pytest.warns(UserWarning, match=rf"{reason}.*rebuilt from the headers of 7 shards") as caught:
        model = from_official(tmp_path)
    assert caught[0].filename == __file__
    same_weights(model, weights())


def rewrite(folder: Path, file: str, change: Any) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def test_a_missing_tensor_is_named(tmp_path):
    write(tmp_path)
    rewrite(tmp_path, "model.safetensors", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ValueError, match=r"1 of 50 tensors.*: model\.layers\.1\.mlp\.up_proj\.weight$"):
        from_official(tmp_path)


@pytest.mark.filterwarnings("ignore:.*the map was rebuilt")
def test_a_missing_shard_is_named_with_what_was_in_it(tmp_path):
    write(tmp_path, shards=50)
    lost = tmp_path / "model-00002-of-00050.safetensors"
    (name,) = read_header(lost)
    lost.unlink()
    with pytest.raises(ValueError) as raised:
        from_official(tmp_path)
    assert f"{name}; 1 shards are missing: {lost.name}" in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*the map was rebuilt")
def test_an_unexpected_tensor_is_named_with_its_file(tmp_path):
    write(tmp_path, shards=3)
    (tmp_path / INDEX).unlink()
    file = "model-00002-of-00003.safetensors"
    rewrite(tmp_path, file, lambda t: t.update({"model.action_action_norm.weight": torch.zeros(H)}))
    message = rf"no place for: model\.action_action_norm\.weight in {re.escape(file)}$"
    with pytest.raises(ValueError, match=message):
        from_official(tmp_path)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.filterwarnings("ignore:.*the map was rebuilt")
def test_a_tensor_in_two_files_is_named_with_both(with_index, tmp_path):
    write(tmp_path, shards=3)
    if not with_index:
        (tmp_path / INDEX).unlink()
    first, last = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"
    name = next(iter(read_header(tmp_path / first)))
    rewrite(tmp_path, last, lambda t: t.update({name: torch.zeros(1)}))
    with pytest.raises(ValueError) as raised:
        from_official(tmp_path)
    assert f"tensor {name} is in two files" in str(raised.value)
    assert str(raised.value).endswith(f"{first} and {last}")


@pytest.mark.parametrize("lost", [1, 1000, 30_000])
def test_a_truncated_tensor_is_named_with_its_file(lost, tmp_path):
    write(tmp_path, shards=2)
    path = tmp_path / "model-00002-of-00002.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    entries.pop("__metadata__", None)
    left = len(content) - lost - 8 - length
    cut = min((e["data_offsets"][1], name) for name, e in entries.items() if e["data_offsets"][1] > left)[1]
    with pytest.raises(ValueError, match=rf"00002\.safetensors is truncated: tensor {re.escape(cut)} ends"):
        from_official(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer"),
        ((5).to_bytes(8, "little") + b"{nono", "no readable safetensors header"),
        ((2).to_bytes(8, "little") + b"[]", "no readable safetensors header"),
        ((2).to_bytes(8, "little") + b"{}" + b"surplus!", "damaged safetensors file"),
    ],
)
def test_a_damaged_file_is_named(content, message, tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}|{message}.*model\.safetensors"):
        from_official(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.action_code_book.weight", torch.zeros(C, H), rf"shape \[{C}, {H}\].* makes it \[{H}, {C}\]"),
        ("lm_head.weight", torch.zeros(V + 1, H), rf"shape \[{V + 1}, {H}\].* makes it \[{V}, {H}\]"),
        ("model.norm.weight", torch.zeros(H, dtype=torch.int8), "is stored as I8"),
    ],
)
def test_a_tensor_of_another_shape_or_kind_is_named_with_its_file(name, tensor, message, tmp_path):
    write(tmp_path, {**weights(), name: tensor})
    with pytest.raises(ValueError, match=rf"tensor {re.escape(name)} in .*model\.safetensors.*{message}"):
        from_official(tmp_path)


@pytest.mark.parametrize("elsewhere", ["model-00002-of-00002.safetensors", "nowhere"])
def test_an_index_that_contradicts_its_files_is_refused(elsewhere, tmp_path):
    write(tmp_path, shards=2)
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    if elsewhere == "nowhere":
        index["model.more.weight"] = "model-00001-of-00002.safetensors"
        message = r"puts model\.more\.weight into .*but it is in none of its files"
    else:
        index["model.embed_tokens.weight"] = elsewhere
        message = r"puts model\.embed_tokens\.weight into .*00002-of.*but it is in model-00001-of"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match=message):
        from_official(tmp_path)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pth", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused(file, tmp_path):
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights(), tmp_path / file)
    with pytest.raises(ValueError, match=rf"pickled weights \({re.escape(file)}\).*refused"):
        from_official(tmp_path)


def test_a_folder_without_weights_and_one_without_config_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        from_official(tmp_path)
    write(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights"):
        from_official(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
        from_official(tmp_path / "nothing")


# ------------------------------------------------------------------ the configuration


@pytest.mark.parametrize("field", ["num_code", "num_action_layer", "num_dyna_layer", "num_policy_layer"])
def test_a_missing_size_is_named(field, tmp_path):
    without: dict[str, Any] = {field: ...}
    with pytest.raises(ValueError, match=rf"config\.json has no field '{field}'"):
        from_official(write(tmp_path, **without))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"v": ...}, r"has no field 'v'; 0, 1 and 2 are supported"),
        ({"v": 3}, r"has v=3; 0, 1 and 2"),
        ({"v": "1"}, r"has v='1'"),
        ({"v": True}, r"has v=True"),
        ({"num_code": 1}, r"num_code must be a whole number of at least 2, got 1"),
        ({"num_policy_layer": 0}, r"num_policy_layer must be .* at least 1, got 0"),
        ({"num_dyna_layer": "2"}, r"num_dyna_layer must be .*got '2'"),
        ({"model_type": "qwen2"}, r"model_type is 'qwen2'; official checkpoints have 'llama'"),
        ({"model_type": "cola"}, r"our own format: load it with CoLAForCausalLM\.from_pretrained"),
        ({"quantization_config": {}}, "quantised weights"),
        ({"v": 0}, r"model\.action_.*These weights have inverse dynamics, which v=0 has not"),
        ({"num_hidden_layers": 3}, r"9 of 59 tensors.*model\.layers\.2\."),
        ({"num_action_layer": 2}, r"9 of 59 tensors.*model\.action_layers\.1\."),
        ({"hidden_size": 64}, r"has shape \[.*config\.json makes it"),
    ],
)
def test_a_configuration_that_is_unknown_or_contradicts_the_weights_is_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_official(write(tmp_path, weights(1), **changed))


def test_a_broken_configuration_is_named(tmp_path):
    write(tmp_path)
    for content, message in (("{", r"config\.json is not JSON"), ("[1]", "an object is expected: .1.")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            from_official(tmp_path)


# ------------------------------------------------------------------ the hub


def test_a_hub_id_fetches_safetensors_and_no_pickles(tmp_path, monkeypatch):
    write(tmp_path)
    asked: dict[str, Any] = {}

    def snapshot(repo: str, *, allow_patterns: list[str]) -> str:
        asked.update(repo=repo, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model = CoLAForCausalLM.from_official("LAMDA-RL/Llama-3.1-CoLA-10B")
    same_weights(model, weights())
    assert asked["repo"] == "LAMDA-RL/Llama-3.1-CoLA-10B"
    assert {"*.safetensors", "*.json", "*.model"} <= set(asked["patterns"])
    assert not [p for p in asked["patterns"] if p == "*" or p.endswith((".bin", ".pt", ".pth", ".py"))]


def test_a_hub_id_that_is_not_there_says_so(monkeypatch):
    def snapshot(repo: str, *, allow_patterns: list[str]) -> str:
        raise OSError("404")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(FileNotFoundError, match=r"some/model is no folder here.*404"):
        from_official("some/model")


# ------------------------------------------------------------------ conversion


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_convert_writes_the_same_model_with_its_tokenizer(dtype, tmp_path, ids, tiny_tokenizer, capsys):
    official, ours = tmp_path / "official", tmp_path / "deep" / "ours"
    write(official, {name: tensor.to(dtype) for name, tensor in weights().items()}, shards=4)
    tiny_tokenizer.save_pretrained(official)
    assert main(["convert", str(official), str(ours)]) == 0
    assert "Wrote" in capsys.readouterr().out
    model = CoLAForCausalLM.from_pretrained(ours)
    same_weights(model, {name: tensor.to(dtype) for name, tensor in weights().items()})
    assert torch.equal(model(ids).logits, from_official(official)(ids).logits)
    assert AutoTokenizer.from_pretrained(ours).get_vocab() == tiny_tokenizer.get_vocab()
    assert not [path.name for path in ours.parent.iterdir() if path != ours], "no scratch folder stays"
    latent = [make_backbone(str(folder), level="latent") for folder in (official, ours)]
    assert latent[0].fingerprint == latent[1].fingerprint


def test_convert_changes_the_type_when_asked(tmp_path):
    official, ours = write(tmp_path / "official"), tmp_path / "ours"
    ours.mkdir()
    assert main(["convert", str(official), str(ours), "--dtype", "bfloat16"]) == 0
    assert CoLAForCausalLM.from_pretrained(ours).dtype == torch.bfloat16


def test_convert_overwrites_nothing(tmp_path, capsys):
    official, ours = write(tmp_path / "official"), tmp_path / "ours"
    ours.mkdir()
    (ours / "mine.txt").write_text("kept")
    for target, why in (
        (ours, "is not an empty folder: nothing was written"),
        (ours / "mine.txt", "is a file: name a folder"),
    ):
        assert main(["convert", str(official), str(target)]) == 2
        assert why in capsys.readouterr().err
    assert [path.name for path in ours.iterdir()] == ["mine.txt"]
    assert (ours / "mine.txt").read_text() == "kept"


def test_convert_that_fails_leaves_nothing_behind(tmp_path, capsys, tiny_tokenizer, monkeypatch):
    official = write(tmp_path / "official", weights(), v=7)
    assert main(["convert", str(official), str(tmp_path / "ours")]) == 2
    assert capsys.readouterr().err.startswith("cola: ")
    tensors = {
        name: tensor[:50] if name in ("lm_head.weight", "model.embed_tokens.weight") else tensor
        for name, tensor in weights().items()
    }
    write(official, tensors, vocab_size=50)
    tiny_tokenizer.save_pretrained(official)
    assert main(["convert", str(official), str(tmp_path / "ours")]) == 2
    assert "do not belong together" in capsys.readouterr().err

    def half(self: Any, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("the disk is full")

    write(official)
    monkeypatch.setattr(CoLAForCausalLM, "save_pretrained", half)
    assert main(["convert", str(official), str(tmp_path / "ours")]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert Counter(path.name for path in tmp_path.iterdir()) == Counter(["official"])
