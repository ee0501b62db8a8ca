"""Nobody's code runs: whatever a model's files ask for, they are refused at once, and stdin is not read."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file, save_file

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.cli import main
from cola_agents.common.sealed import SEAL, sealed
from cola_agents.decoding.loading import BUNDLED, make_backbone
from cola_agents.model.loading import ONE_AT_A_TIME, ForeignCodeError, load_config, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.shards import find_tensors
from cola_agents.rl.ppo import PPO
from cola_agents.train.adapters import load_adapters
from cola_agents.train.reward import Pair, RewardModel, train_reward
from cola_envs.grading import evaluate
from tests import tiny
from tests.common.test_files import forked, status_of

ROOT = Path(__file__).parents[2]

EVIL = """
import pathlib
pathlib.Path({marker!r}).write_text("the folder's code ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "evil"
Model = LlamaForCausalLM
Tokenizer = PreTrainedTokenizerFast
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: Any) -> Iterator[Path]:
    """A file that a folder's code would write; a user at the terminal would say yes to everything."""
    path = tmp_path / "ran"
    answers = io.StringIO("y\n" * 20)
    monkeypatch.setattr("sys.stdin", answers)
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists()
    assert answers.tell() == 0


def evil(tmp_path: Path, kind: str, file: str = "config.json", **fields: Any) -> Path:
    """A bundled model with an ``evil.py`` beside it, and further fields in one of its files."""
    folder = tmp_path / "evil"
    shutil.copytree(BUNDLED / kind, folder)
    (folder / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    described = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(described | fields))
    return folder


CODE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
TOKENIZER = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
NESTED = json.loads((BUNDLED / "cola" / "config.json").read_text())["text_config"]
ASKED = {
    "another type": ("config.json", {"model_type": "evil", "auto_map": CODE}),
    "a type of our own": ("config.json", {"auto_map": CODE}),
    "code of a hub repository": ("config.json", {"auto_map": {"AutoConfig": "someone/repo--evil.Config"}}),
    "inside the base": ("config.json", {"text_config": {**NESTED, "auto_map": CODE}}),
    "a tokenizer": ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": TOKENIZER}),
    "an old tokenizer": ("tokenizer_config.json", {"auto_map": TOKENIZER["AutoTokenizer"]}),
    "hub kernels": ("config.json", {"attn_implementation": "kernels-community/flash-attn2"}),
    "hub kernels of the base": (
        "config.json",
        {"text_config": {**NESTED, "_attn_implementation": "someone/kernels@main:attention"}},
    ),
    "hub kernels by part": ("config.json", {"attn_implementation": {"": "sdpa", "text_config": "a/b"}}),
    "kernels that stand in": ("config.json", {"attn_implementation": "flash_attention_2"}),
    "kernels of experts": ("config.json", {"experts_implementation": "deepgemm"}),
    "quantised weights": ("config.json", {"quantization_config": {"quant_method": "mxfp4"}}),
    "weights of another name": ("config.json", {"transformers_weights": "adapter_model.bin"}),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_model_that_asks_for_code_is_refused_by_name(asked: str, tmp_path: Path, marker: Path) -> None:
    file, fields = ASKED[asked]
    folder = evil(tmp_path, "cola", file, **fields)
    with pytest.raises(
        ForeignCodeError, match=rf"in {file.replace('.', '[.]')} of .*evil.*asks|names a file"
    ):
        gym.make("CoLA-Arithmetic-v0", model=str(folder))


def whole_run(folder: Path) -> None:
    """A command, whose error is what it prints."""
    with redirect_stderr(io.StringIO()) as said:
        assert main(["pretrain", "world", "--model", str(folder), "--out", "run", "--steps", "1"]) == 2
    if "auto_map" in said.getvalue():
        raise ForeignCodeError(said.getvalue())


WAYS: dict[str, Callable[[Path], Any]] = {
    "make_vec": lambda f: gym.make_vec("CoLA-Arithmetic-v0", num_envs=2, model=str(f)),
    "token level": lambda f: gym.make("CoLA-Arithmetic-Token-v0", model=f),
    "tokenizer=": lambda f: make_backbone(None, level="token", tokenizer=str(f)),
    "a base": lambda f: CoLAForCausalLM.from_base(f),
    "the class itself": lambda f: CoLAForCausalLM.from_pretrained(f),
    "a reward model": lambda f: RewardModel(f)(["a"], ["b"]),
    "training a reward model": lambda f: train_reward(f, [Pair("a", "b", "c")] * 2, Path("reward")),
    "pretraining": whole_run,
    "a configuration": load_config,
    "a tokenizer": load_tokenizer,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_in_runs_a_folders_code(way: str, tmp_path: Path, marker: Path) -> None:
    folder = evil(tmp_path, "base", model_type="evil", auto_map=CODE)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": TOKENIZER}))
    with pytest.raises(ForeignCodeError):
        WAYS[way](folder)


def test_an_official_checkpoint_is_read_by_our_code_whatever_its_auto_map_says(
    tmp_path: Path, marker: Path
) -> None:
    folder = evil(tmp_path, "base", auto_map=CODE, num_code=64)
    assert load_config(folder).model_type == "llama"


def test_what_names_no_code_is_no_obstacle(tmp_path: Path, marker: Path) -> None:
    harmless = {"auto_map": {}, "attn_implementation": "eager", "cache_implementation": "hybrid"}
    assert make_backbone(evil(tmp_path, "base", **harmless, quantization_config=None), level="token")


@pytest.mark.parametrize(
    "option",
    [{"trust_remote_code": True}, {"use_safetensors": False}, {"use_kernels": True}],
    ids=lambda option: next(iter(option)),
)
def test_a_caller_cannot_allow_it_by_an_argument(option: dict[str, Any], marker: Path) -> None:
    with pytest.raises(ValueError, match="is refused"):
        CoLAForCausalLM.from_pretrained(BUNDLED / "cola", **option)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_with_a_sentence(file: str, tmp_path: Path, marker: Path) -> None:
    folder = evil(tmp_path, "base")
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Bomb(marker)))
    for load in (make_backbone, CoLAForCausalLM.from_base):
        kwargs = {"level": "token"} if load is make_backbone else {}
        with pytest.raises(ValueError, match="pickled weights"):
            load(folder, **kwargs)


def adapters(folder: Path, **changed: Any) -> Path:
    """Adapters as `peft` writes them, with some fields changed."""
    pytest.importorskip("peft")
    from cola_agents.train.adapters import Adapters, LoRA

    model = tiny.make_cola()
    Adapters(model, LoRA(2)).save(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def test_adapters_that_name_a_module_to_import_are_refused(tmp_path: Path, marker: Path) -> None:
    folder = adapters(tmp_path / "adapters", megatron_config={"a": 1}, megatron_core="evil")
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(marker)))
    with pytest.raises(ForeignCodeError, match="megatron_config"):
        load_adapters(tiny.make_cola(), folder)


def test_pickled_adapters_are_refused(tmp_path: Path, marker: Path) -> None:
    folder = adapters(tmp_path / "adapters")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError, match="pickled weights"):
        load_adapters(tiny.make_cola(), folder)
    shutil.copytree(BUNDLED / "base", tmp_path / "model")
    shutil.copytree(folder, tmp_path / "model", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="pickled weights"):
        make_backbone(tmp_path / "model", level="token")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "absolute", "link.safetensors", "sub/x.safetensors"]
)
def test_weights_stay_inside_the_folder(name: str, tmp_path: Path, marker: Path) -> None:
    folder = evil(tmp_path, "base")
    outside = tmp_path / "secret.safetensors"
    shutil.move(folder / "model.safetensors", outside)
    if name == "link.safetensors":
        (folder / name).symlink_to(outside)
    if name == "sub/x.safetensors":
        (folder / "sub").mkdir()
        shutil.copy(outside, folder / name)
    shard = str(outside) if name == "absolute" else name
    weights = dict.fromkeys(load_file(outside), shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with pytest.raises(ValueError, match="is not in"):
        make_backbone(folder, level="token")
    with pytest.raises(ValueError, match="is not in"):
        find_tensors(folder)


def test_the_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"x": torch.zeros(1)}, blobs / "f00d")
    (snapshot / "model-00001-of-00001.safetensors").symlink_to(blobs / "f00d")
    index = {"weight_map": {"x": "model-00001-of-00001.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(find_tensors(snapshot)) == ["x"]


def test_a_saved_agent_names_nothing_that_is_called(tmp_path: Path, marker: Path) -> None:
    with closing(PPO("CoLA-Arithmetic-v0", num_envs=2)) as agent:
        agent.save(tmp_path / "agent")
    path = tmp_path / "agent" / "agent.json"
    said = {name: value for name, value in json.loads(path.read_text()).items() if name != SEAL}
    said["env_kwargs"] = {"builder": "subprocess:getoutput", "cmd": f"touch {marker}"}
    path.write_bytes(sealed(said))
    with pytest.raises(ValueError, match="builder, which could not be saved: pass env_kwargs="):
        PPO.load(tmp_path / "agent")
    own = {"builder": "cola_envs.tasks.arithmetic:ArithmeticTask"}
    with closing(PPO("CoLA-Arithmetic-v0", num_envs=2, env_kwargs=own)) as agent:
        agent.save(tmp_path / "own")
    with pytest.raises(ValueError, match="builder, which could not be saved"):
        PPO.load(tmp_path / "own")
    PPO.load(tmp_path / "own", env_kwargs=own).close()


def test_a_data_set_that_is_a_script_is_refused(tmp_path: Path, marker: Path) -> None:
    pytest.importorskip("datasets")
    from cola_agents.train.data.sources import StreamedDocuments

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(EVIL.format(marker=str(marker)))
    with pytest.raises(ValueError, match="cannot be streamed"):
        StreamedDocuments(str(tmp_path / "data"))


# ------------------------------------------------------------------ no way around the one place


#: What reads files that somebody else may have made.
LOADERS = ("from_pretrained", "load_dataset", "load_adapter", "from_file", "hf_hub_download", "pipeline")
UNPICKLERS = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "yaml"}
#: Processes of this package that talk to their own parent, the inside of a pickle that a user reads, and
#: numba's compiled code, where numba itself would keep it.
OWN_PICKLES = (
    "cola_agents/decoding/compiling.py",
    "cola_envs/engines/worker.py",
    "cola_envs/engines/process.py",
    "cola_envs/testing/checks.py",
    "cola_envs/pickling.py",
)


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    """Receiver, name and node of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield ast.unparse(node.func.value), node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield "", node.func.id, node


def goes_around(file: str, receiver: str, name: str, call: ast.Call) -> bool:
    """Whether a call reads foreign files elsewhere than in the one place, or in an unsafe manner."""
    said = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in LOADERS:
        # A method of ours, which checks by itself.
        ours = receiver == "CoLAForCausalLM" or (file == "cola_agents/model/hub.py" and receiver == "super()")
        return file != "cola_agents/model/loading.py" and not ours
    if name == "from_config":
        return said.get("trust_remote_code") != "False"
    if (receiver, name) == ("torch", "load"):
        return said.get("weights_only") != "True"
    if receiver in ("np", "numpy") and name == "load":
        return said.get("allow_pickle", "False") != "False"
    if receiver in UNPICKLERS and name in ("load", "loads", "Unpickler", "unsafe_load", "full_load"):
        return file not in OWN_PICKLES
    return receiver == "" and name in ("eval", "exec")


def test_no_loader_goes_around_the_one_place() -> None:
    found = []
    for package in ("cola_envs", "cola_agents", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            found += [
                f"{file}:{call.lineno} {receiver}.{name}"
                for receiver, name, call in calls(ast.parse(path.read_text()))
                if goes_around(file, receiver, name, call)
            ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(path)",
        "peft.PeftModel.from_pretrained(model, path)",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_config(config)",
        "joblib.load(path)",
        "exec(text)",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert any(goes_around("cola_agents/new.py", *call) for call in calls(ast.parse(line)))


@pytest.mark.parametrize("lock", [ONE_AT_A_TIME, evaluate._LOCK], ids=["loading", "grading"])
def test_a_child_that_is_forked_while_another_thread_loads_or_grades_can_do_so_too(lock, tmp_path) -> None:
    tiny.make_cola().save_pretrained(tmp_path)
    held, done = threading.Event(), threading.Event()

    def busy() -> None:
        with lock:
            held.set()
            time.sleep(0.3)
            done.set()

    def child() -> None:
        with evaluate.precision(64):
            CoLAForCausalLM.from_pretrained(tmp_path)

    thread = threading.Thread(target=busy)
    thread.start()
    held.wait()
    pid = forked(child)
    waited = done.is_set()
    killer = threading.Timer(60, os.kill, (pid, signal.SIGKILL))
    killer.start()
    try:
        assert waited, "what the other thread has replaced is put back before the fork"
        assert status_of(pid) == 0
    finally:
        killer.cancel()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lock.acquire, timeout=5).result(), "the parent gives it back"
        pool.submit(lock.release).result()
    thread.join()
