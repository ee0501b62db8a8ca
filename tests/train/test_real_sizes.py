"""What lets the stages fit models of real sizes: chunks of the vocabulary, documents, and cached states."""

from __future__ import annotations

import copy
import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cola_agents.model.documents import DocumentMask, document_attention, takes_documents
from cola_agents.model.families import CappedLinear
from cola_agents.train import cross_entropy, loop, states
from cola_agents.train.clone import clone_policy
from cola_agents.train.cross_entropy import head_cross_entropy, target_cross_entropy
from cola_agents.train.data.packing import IGNORED, Batch, collate
from cola_agents.train.data.prefetch import Prefetched
from cola_agents.train.options import StageConfig
from cola_agents.train.states import StateCache, StateCacheWarning
from cola_agents.train.world import pretrain_world
from tests.tiny import make_base, make_cola
from tests.train.training_runs import Batches, Stopped, run

SHORT = StageConfig(steps=3, rows=4, length=32, lr=3e-3, warmup=1, log_every=1)


def packed(seed: int = 0, rows: int = 4, length: int = 32) -> Batch:
    """Rows of two documents of unequal length, with pads behind them."""
    source = torch.Generator().manual_seed(seed)
    documents = [
        [
            torch.randint(1, 280, (size,), generator=source).tolist()
            for size in (5 + row, length - 8 - 2 * row)
        ]
        for row in range(rows)
    ]
    return collate(documents, length)


def stream(seeds: list[int]) -> Any:
    return iter([packed(seed) for seed in seeds])


# ------------------------------------------------------------------ cross-entropy


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("trained", [False, True])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, cap: float | None, trained: bool
) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 300, bias=False) if cap is None else CappedLinear(16, 300, cap)
    head.weight.requires_grad_(trained)
    targets = torch.randint(0, 300, (3, 21)).masked_fill(torch.rand(3, 21) < 0.3, IGNORED)
    given = torch.randn(3, 21, 16)

    def gradients(loss: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        states, head.weight.grad = given.clone().requires_grad_(), None
        value = loss(states) / 3
        value.backward()
        return value.detach(), states.grad, head.weight.grad

    whole = gradients(lambda states: target_cross_entropy(head(states), targets))
    monkeypatch.setattr(cross_entropy, "WHOLE", 0)
    monkeypatch.setattr(cross_entropy, "CHUNK", 4 * 300)
    widest = []
    product = torch.mm

    def watched(a: Tensor, b: Tensor, **options: Any) -> Tensor:
        widest.append(len(a))
        return product(a, b, **options)

    monkeypatch.setattr(torch, "mm", watched)
    chunked = gradients(lambda states: head_cross_entropy(states, head, targets))
    assert max(widest) == 4  # no more rows of logits at a time
    assert (whole[2] is None) == (chunked[2] is None) == (not trained)
    for ours, theirs in zip(chunked, whole, strict=True):
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_a_small_vocabulary_is_computed_at_once_and_bit_for_bit_as_before() -> None:
    head, states = nn.Linear(8, 50, bias=False), torch.randn(2, 9, 8)
    targets = torch.randint(0, 50, (2, 9))
    assert head_cross_entropy(states, head, targets).equal(target_cross_entropy(head(states), targets))


def test_chunks_compute_in_bfloat16_under_autocast_and_sum_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    head, states = nn.Linear(16, 300, bias=False), torch.randn(2, 9, 16)
    targets = torch.randint(0, 300, (2, 9))
    monkeypatch.setattr(cross_entropy, "WHOLE", 0)
    exact = head_cross_entropy(states, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        whole = target_cross_entropy(head(states), targets)
        chunked = head_cross_entropy(states, head, targets)
    assert chunked.dtype == torch.float32
    assert chunked.item() == pytest.approx(whole.item(), abs=1e-5)
    assert chunked.item() != exact.item()


def test_liger_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(ValueError, match="needs a GPU, and the model is on the CPU"):
        head_cross_entropy(
            torch.randn(1, 2, 4), nn.Linear(4, 9, bias=False), torch.zeros(1, 2).long(), liger=True
        )


# ------------------------------------------------------------------ attention


def _mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    small = make_base().config.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    torch.manual_seed(0)
    config = MistralConfig(
        **{name: small[name] for name in names},
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.2,
    )
    return MistralForCausalLM(config).eval()


@pytest.mark.parametrize("base", [make_base, _mistral], ids=["llama", "sliding window"])
def test_document_attention_gives_states_and_gradients_of_the_mask(base: Any) -> None:
    model = make_cola(base=base())
    batch = packed()
    stacks = [model.base, model.inverse_trunk, model.policy_trunk]
    assert all(takes_documents(stack, torch.float32) for stack in stacks)

    def computed(mask: Any) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        h = model.hidden(batch.ids, mask=mask, positions=batch.positions)
        logits = model.infer(h, mask=mask, positions=batch.positions)
        logits.logsumexp(-1)[batch.targets != IGNORED].sum().backward()
        return logits.detach()[batch.segments >= 0], model.base.embed_tokens.weight.grad.clone()

    masked = computed(batch.mask)
    with document_attention(stacks):
        apart = computed(DocumentMask.of(batch.segments))
    for ours, theirs in zip(apart, masked, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    assert all(stack.config._attn_implementation == "sdpa" for stack in stacks)


def test_lengths_are_those_of_documents_and_pads() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, -1, -1]])
    mask = DocumentMask.of(segments)
    assert mask.lengths == (2, 3, 3, 2)
    assert mask.offsets.tolist() == [0, 2, 5, 8, 10]


def test_eager_attention_keeps_its_mask() -> None:
    model = make_cola()
    model.set_attn_implementation("eager")
    assert not takes_documents(model.base, torch.float32)


@pytest.mark.parametrize("train", [pretrain_world, clone_policy])
def test_a_stage_by_documents_and_chunks_has_the_losses_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, train: Any
) -> None:
    def losses(attention: str) -> list[float]:
        config = StageConfig(steps=3, rows=4, length=32, warmup=1, log_every=1, attention=attention)
        return [record["loss"] for record in train(make_cola(), stream([1, 2, 3]), config)]

    whole = losses("mask")
    monkeypatch.setattr(cross_entropy, "WHOLE", 0)
    monkeypatch.setattr(cross_entropy, "CHUNK", 5 * 288)
    assert losses("documents") == pytest.approx(whole, abs=1e-4)


def test_rows_up_to_512_tokens_are_masked_by_default() -> None:
    assert not StageConfig(steps=1, length=512).by_documents
    assert StageConfig(steps=1, length=513).by_documents
    assert not StageConfig(steps=1, length=2048, attention="mask").by_documents
    with pytest.raises(ValueError, match="attention='flash' is not one of"):
        StageConfig(steps=1, attention="flash")


# ------------------------------------------------------------------ cached states


def counted(model: Any) -> list[int]:
    """The rows of every pass through the base from now on."""
    passes: list[int] = []
    model.base.register_forward_hook(
        lambda module, given, keywords, out: passes.append(len(keywords["input_ids"])), with_kwargs=True
    )
    return passes


def mask_of(batch: Batch) -> Tensor:
    return batch.mask


def test_two_stages_run_the_base_once_and_learn_as_without_a_cache(tmp_path: Path) -> None:
    plain, cached = make_cola(), make_cola()
    passes = counted(cached)
    for model, folder in ((plain, None), (cached, tmp_path / "states")):
        model.records = [
            *pretrain_world(model, stream([1, 2, 3]), SHORT, states=folder),
            *clone_policy(model, stream([3, 1, 2]), SHORT, states=folder),
        ]
    assert sum(passes) == 12  # the rows of one stage's three steps
    ours, theirs = ([record["loss"] for record in model.records] for model in (cached, plain))
    assert ours == pytest.approx(theirs, abs=0.02)
    assert ours != theirs  # states of 8 bits of mantissa


def test_cached_states_are_those_of_the_base_in_bfloat16_and_zero_at_pads(tmp_path: Path) -> None:
    model, batch = make_cola(), packed()
    with torch.no_grad():
        h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
    h[batch.segments < 0] = 0
    with StateCache(tmp_path / "states", model) as cache:
        first = cache(batch, mask_of)
        again = cache(batch, mask_of)
        tokens = int((batch.segments >= 0).sum())
        assert (cache.computed, cache.read) == (tokens, tokens)
    assert first.dtype == torch.float32
    assert first.equal(again)
    assert first.equal(h.bfloat16().float())


def test_a_document_is_found_in_another_row_and_in_another_process(tmp_path: Path) -> None:
    model, batch = make_cola(), packed()
    with StateCache(tmp_path / "states", model) as cache:
        first = cache(batch, mask_of)
    other = Batch(*(x.flip(0) for x in (batch.ids, batch.targets, batch.positions, batch.segments)))
    passes = counted(model)
    with StateCache(tmp_path / "states", model) as cache:
        assert len(cache) == 8
        assert cache(other, mask_of).equal(first.flip(0))
    assert not passes


def test_only_rows_with_a_new_document_are_computed(tmp_path: Path) -> None:
    model = make_cola()
    one, two = packed(1), packed(2)
    with StateCache(tmp_path / "states", model) as cache:
        cache(one, mask_of)
        passes = counted(model)
        mixed = Batch(
            *(
                torch.cat([x[:3], y[3:]])
                for x, y in zip(
                    (one.ids, one.targets, one.positions, one.segments),
                    (two.ids, two.targets, two.positions, two.segments),
                    strict=True,
                )
            )
        )
        h = cache(mixed, mask_of)
    assert passes == [1]
    with torch.no_grad():
        expected = model.hidden(mixed.ids, mask=mixed.mask, positions=mixed.positions)
    kept = mixed.segments >= 0
    torch.testing.assert_close(h[kept], expected[kept], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("cut", ["index", "states"])
def test_a_killed_writer_loses_no_more_than_its_last_documents(tmp_path: Path, cut: str) -> None:
    model, batch = make_cola(), packed()
    folder = tmp_path / "states"
    with StateCache(folder, model) as cache:
        first = cache(batch, mask_of)
    path = folder / ("part-00000.index" if cut == "index" else "part-00000.bin")
    raw = path.read_bytes()
    path.write_bytes(raw[:-7])
    with StateCache(folder, model) as cache:
        assert len(cache) == 7
        assert cache(batch, mask_of).equal(first)
        assert len(cache) == 8
    with StateCache(folder, model) as cache:
        assert len(cache) == 8
    assert (folder / "part-00001.bin").exists()


def test_damaged_states_are_computed_again_with_a_warning(tmp_path: Path) -> None:
    model, batch = make_cola(), packed()
    folder = tmp_path / "states"
    with StateCache(folder, model) as cache:
        first = cache(batch, mask_of)
    path = folder / "part-00000.bin"
    raw = bytearray(path.read_bytes())
    raw[40] ^= 255
    path.write_bytes(raw)
    with StateCache(folder, model) as cache:
        with pytest.warns(StateCacheWarning, match="damaged at token 0: .* computed again"):
            assert cache(batch, mask_of).equal(first)
        assert cache(batch, mask_of).equal(first)


def test_states_of_another_base_are_refused_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    with StateCache(folder, make_cola(), "float32") as cache:
        cache(packed(), mask_of)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=r"holds states of another base .*give another folder, or delete"):
        StateCache(folder, make_cola(base=make_base(seed=1)))
    with pytest.raises(ValueError, match=r"of the base in another precision .*'float32' and not 'bf16'"):
        pretrain_world(
            make_cola(), stream([1]), StageConfig(steps=1, rows=4, precision="bf16"), states=folder
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "novel.txt").write_text("Call me")
    with pytest.raises(FileExistsError, match="something other than a cache of states"):
        StateCache(tmp_path / "other", make_cola())


def test_fields_that_change_no_state_do_not_count_in_a_configurations_digest() -> None:
    config = make_base().config
    before = states.configuration_digest(config)
    for name, value in (
        ("eos_token_id", 7),
        ("use_cache", False),
        ("initializer_range", 0.5),
        ("attention_dropout", 0.1),
    ):
        other = copy.deepcopy(config)
        setattr(other, name, value)
        assert states.configuration_digest(other) == before, name
    other.rms_norm_eps = 0.1
    assert states.configuration_digest(other) != before


@pytest.mark.parametrize(
    "changed", [{"rms_norm_eps": 1e-3}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}]
)
def test_states_of_equal_weights_under_another_configuration_are_refused(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    base = make_base()
    other = make_base(**changed)
    other.load_state_dict(base.state_dict())
    with StateCache(tmp_path / "states", make_cola(base=base)) as cache:
        cache(packed(), mask_of)
    with pytest.raises(ValueError, match=r"holds states of another base \(base|another base \(configuration"):
        StateCache(tmp_path / "states", make_cola(base=other))


def test_states_of_an_earlier_version_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with StateCache(tmp_path / "states", make_cola()) as cache:
        cache(packed(), mask_of)
    about = json.loads((tmp_path / "states" / states.ABOUT).read_text())
    del about["configuration"]
    (tmp_path / "states" / states.ABOUT).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"of an earlier version, .* another folder, or delete this one"):
        StateCache(tmp_path / "states", make_cola())


def test_a_change_of_the_latent_parts_keeps_the_cache(tmp_path: Path) -> None:
    model = make_cola()
    with StateCache(tmp_path / "states", model) as cache:
        cache(packed(), mask_of)
    pretrain_world(model, stream([1]), StageConfig(steps=1, rows=4, length=32, warmup=0))
    with StateCache(tmp_path / "states", model) as cache:
        assert len(cache) == 8


@pytest.mark.parametrize("how", ["no space left", "within the reserve"])
def test_a_full_disk_stops_the_caching_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def losses(folder: Path) -> list[float]:
        return [r["loss"] for r in pretrain_world(make_cola(), stream([1, 2, 3]), SHORT, states=folder)]

    expected = losses(tmp_path / "enough")
    written = 0
    write = states._write
    if how == "no space left":

        def fails(file: Any, left: memoryview) -> None:
            nonlocal written
            written += 1
            if written > 12:  # in the middle of the second step
                file.write(left[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, left)

        monkeypatch.setattr(states, "_write", fails)
    else:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=states.RESERVE))
    with pytest.warns(StateCacheWarning, match=r"disk of .* is full .* free space .* start it again") as seen:
        assert losses(tmp_path / "full") == expected
    assert len([w for w in seen if w.category is StateCacheWarning]) == 1
    monkeypatch.undo()
    with StateCache(tmp_path / "full", make_cola()) as cache:
        assert len(cache) == (8 if how == "no space left" else 0)
    # The same call with free space fills it up.
    assert losses(tmp_path / "full") == expected
    with StateCache(tmp_path / "full", make_cola()) as cache:
        assert len(cache) == 24


# ------------------------------------------------------------------ packing in the background


def test_prefetched_batches_have_their_order_and_the_position_after_the_last_one_taken() -> None:
    ahead = Prefetched(Batches(), 3, resumable=True)
    for drawn, expected in zip((1, 2, 3), Batches(), strict=False):
        assert next(ahead).ids.equal(expected.ids)
        assert ahead.state_dict() == {"drawn": drawn}
    assert next(ahead, None) is None
    ahead.close()


def test_no_more_is_read_than_the_stage_takes() -> None:
    source = Batches()
    ahead = Prefetched(source, 2)
    assert len(list(ahead)) == 2
    ahead.close()
    assert source.state_dict() == {"drawn": 2}


def test_an_error_of_the_packing_is_raised_where_its_batch_would_have_been() -> None:
    ahead = Prefetched(Batches(stop=1), 3)
    next(ahead)
    with pytest.raises(Stopped):
        next(ahead)
    ahead.close()


@pytest.mark.parametrize("stage", ["world", "policy"])
def test_a_stage_with_packing_in_the_background_is_the_same_and_resumes_the_same(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, records = run(stage)
    monkeypatch.setattr(loop, "SMALL", 0)
    options: dict[str, Any] = {"checkpoints": tmp_path / "checkpoints", "save_every": 3}
    with pytest.raises(Stopped):
        run(stage, stop=5, **options)
    ahead, repeated = run(stage, **options)
    assert repeated == records
    for name, tensor in model.state_dict().items():
        assert ahead.state_dict()[name].equal(tensor), name


# ------------------------------------------------------------------ compiling


def test_the_trained_layers_are_compiled_during_the_stage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    real = nn.Module.compile

    def watched(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        real(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", watched)
    _, plain = run("world", steps=2)
    model, records = run("world", steps=2, compile=True)
    assert sorted(compiled) == ["LlamaDecoderLayer", "MergeLayer", "MergeLayer"]
    assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in plain], abs=1e-4)
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_several_processes_may_begin_one_cache_of_states(tmp_path):
    about = {"base": "a", "precision": "float32", "width": 3}
    for number in range(20):
        start, failed = threading.Barrier(6), []

        def begin(start=start, failed=failed, folder=tmp_path / str(number)):
            start.wait()
            try:
                states._check_folder(folder, about)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["states.json"]
