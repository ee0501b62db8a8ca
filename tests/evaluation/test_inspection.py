"""Codebook health: what is measured, when it warns, where it is logged, what ``cola inspect`` shows."""

from __future__ import annotations

import copy
import gzip
import json
import math
import sys
import types
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig

from cola_agents.cli import main
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.inspection import (
    CONTEXT,
    Inspection,
    draw,
    inspect_codebook,
    read_documents,
    table,
    visible,
)
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.data.documents import Document
from cola_agents.train.data.packing import IGNORED, packed_batches
from cola_agents.train.health import CodebookWarning, health_warnings
from cola_agents.train.metrics import Budget, CodebookMetrics, Tally, measure, mutual_information, perplexity
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.records import RecordLog
from cola_agents.train.world import pretrain_world
from tests import tiny

HEALTHY = CodebookMetrics(
    base_ce=0.66,
    world_ce=0.2,
    composed_ce=0.67,
    codebook_perplexity=50.0,
    codes_used=64,
    distinct_tokens=3.6,
    reachability=0.95,
    policy_entropy=1.2,
    clone_accuracy=0.6,
    tokens=20_000,
    num_codes=64,
    mutual_information=2.4,
    mutual_information_corrected=2.3,
    policy_perplexity=49.0,
    states=20_000,
)


#: Draws a tiny codebook apart in a few steps.
SPREAD = CodeConfig(marginal=1.0)


# ------------------------------------------------------------------ measures


def test_mutual_information_of_a_two_by_two_table_by_hand():
    """Shares 3/8, 1/8, 1/8, 3/8 with even margins: 6/8 ln(3/2) + 2/8 ln(1/2); 2 + 2 - 4 - 1 cells, N = 8."""
    plain, corrected = mutual_information(torch.tensor([[3, 1], [1, 3]]))
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert plain == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx(0.130812, abs=1e-6)
    assert corrected == pytest.approx(by_hand - 1 / 16, abs=1e-12)


def test_mutual_information_of_independence_and_of_identity():
    assert mutual_information(torch.tensor([[2, 4], [1, 2]]))[0] == pytest.approx(0, abs=1e-12)
    plain, corrected = mutual_information(torch.eye(5, dtype=torch.long) * 7)
    assert plain == pytest.approx(math.log(5), abs=1e-12)
    assert corrected == pytest.approx(plain + 4 / 70, abs=1e-12)


def test_the_correction_takes_off_the_bias_of_independent_draws():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 8 * 8, (20, 2000), generator=generator)
    tables = [torch.bincount(draw, minlength=64).view(8, 8) for draw in draws]
    plain, corrected = torch.tensor([mutual_information(table) for table in tables]).mean(0).tolist()
    assert plain == pytest.approx(49 / 4000, rel=0.15)
    assert abs(corrected) < 0.15 * plain


def test_perplexity_by_hand():
    assert perplexity(torch.tensor([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([3.0, 0.0])) == pytest.approx(1)


def test_codes_and_policy_are_counted_at_the_state_before_the_token(tiny_cola, latent_backbone):
    batch = next(packed_batches(documents(3), latent_backbone.tokenizer, rows=2, length=256))
    tally = Tally(tiny_cola, chunk=9)
    codes = tally.add(batch)
    scored = batch.targets != IGNORED
    assert torch.equal(codes != IGNORED, scored)
    expected = torch.zeros_like(tally.joint)
    for code, token in zip(codes[scored].tolist(), batch.targets[scored].tolist(), strict=True):
        expected[code, token] += 1
    assert torch.equal(tally.joint, expected)
    assert tally.policy.sum().item() == pytest.approx(int(scored.sum()), rel=1e-5)


def test_no_text_is_no_measurement(tiny_cola):
    with pytest.raises(ValueError, match="no token to score"):
        measure(tiny_cola, [])


# ------------------------------------------------------------------ warnings


def test_a_healthy_codebook_gives_no_warning():
    assert health_warnings(HEALTHY) == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"codebook_perplexity": 15.9, "mutual_information_corrected": 1.5}, "the codebook has collapsed"),
        ({"mutual_information_corrected": 0.9}, "say little about the next token"),
        ({"world_ce": 0.66}, "no better than the base"),
        ({"distinct_tokens": 1.99}, "little choice"),
        ({"reachability": 0.79}, "21% of the text is out of reach"),
        ({"composed_ce": 0.72}, "cost 0.060 nats"),
        ({"policy_perplexity": 24.0}, "the policy uses few of the codes"),
        ({"tokens": 1000}, "only 1000 tokens"),
    ],
)
def test_each_illness_is_named_with_a_cure(changed, named):
    (warning,) = health_warnings(replace(HEALTHY, **changed))
    assert named in warning
    assert "Cure: " in warning


def test_weights_that_are_not_finite_are_said_to_be():
    (warning,) = health_warnings(replace(HEALTHY, world_ce=math.nan, reachability=0.1))
    assert "not finite" in warning


def test_one_code_for_everything_is_a_collapse(tiny_cola, latent_backbone):
    collapsed = copy.deepcopy(tiny_cola)
    with torch.no_grad():
        collapsed.inverse_head.weight.zero_()
    metrics = measure(
        collapsed, [next(packed_batches(documents(3), latent_backbone.tokenizer, rows=2, length=256))]
    )
    assert metrics.codebook_perplexity == pytest.approx(1)
    assert metrics.mutual_information == pytest.approx(0, abs=1e-9)
    assert metrics.dead_codes == tiny.CODES - 1
    assert any("has collapsed" in warning for warning in health_warnings(metrics))


def world_records(codes: CodeConfig, tokenizer: Any, log: Path, **changed: Any) -> list[dict[str, Any]]:
    config = StageConfig(steps=40, rows=4, length=96, warmup=5, log_every=5, **changed)
    batches = packed_batches(documents(0), tokenizer, rows=4, length=96)
    pretrain_world(tiny.make_cola(), batches, config, codes, log)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_codebook_that_collapses_in_training_warns_once(latent_backbone, tmp_path):
    codes = CodeConfig()
    # A negative weight, which is refused, draws all positions to one code.
    object.__setattr__(codes, "marginal", -3.0)
    with pytest.warns(CodebookWarning, match="collapsing: at step") as given:
        records = world_records(codes, latent_backbone.tokenizer, tmp_path / "log.jsonl")
    assert len([warning for warning in given if warning.category is CodebookWarning]) == 1
    assert records[-1]["code_perplexity"] < tiny.CODES / 4


def test_a_codebook_that_spreads_in_training_does_not_warn(latent_backbone, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CodebookWarning)
        records = world_records(SPREAD, latent_backbone.tokenizer, tmp_path / "log.jsonl")
    assert records[-1]["code_perplexity"] > tiny.CODES / 2


# ------------------------------------------------------------------ TensorBoard


class FakeWriter:
    made: list[FakeWriter] = []  # noqa: RUF012

    def __init__(self, folder: str) -> None:
        self.folder, self.closed = folder, False
        self.scalars: dict[tuple[str, int], float] = {}
        FakeWriter.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars[tag, step] = value

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_tensorboard(monkeypatch):
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(FakeWriter, "made", [])
    return FakeWriter.made


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def test_the_records_of_a_stage_go_to_tensorboard_too(fake_tensorboard, latent_backbone, tmp_path):
    records = world_records(SPREAD, latent_backbone.tokenizer, tmp_path / "log.jsonl")
    (writer,) = fake_tensorboard
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.closed
    for record in records:
        for key in ("loss", "world_ce", "code_perplexity"):
            assert writer.scalars[f"world/{key}", record["step"]] == record[key]


def test_tensorboard_can_be_refused_and_needs_a_log(fake_tensorboard, latent_backbone, tmp_path):
    world_records(SPREAD, latent_backbone.tokenizer, tmp_path / "log.jsonl", tensorboard=False)
    RecordLog("stage", None).write({"step": 1})
    assert not fake_tensorboard
    with pytest.raises(ValueError, match="needs a log file"):
        RecordLog("stage", None, True)


def test_without_the_package_there_are_json_lines_alone(no_tensorboard, latent_backbone, tmp_path):
    assert world_records(SPREAD, latent_backbone.tokenizer, tmp_path / "log.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_insisting_on_a_missing_package_says_what_to_install(no_tensorboard, tmp_path, capsys):
    out = tmp_path / "base"
    assert main(["pretrain", "base", "--out", str(out), "--steps", "1", "--tensorboard"]) == 2
    assert "pip install 'cola-rl[tensorboard]'" in capsys.readouterr().err
    assert not out.exists()


def test_real_events_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RecordLog("codebook", tmp_path / "new" / "log.jsonl", False) as log:
        log.write({"step": 1})
    assert (tmp_path / "new" / "log.jsonl").is_file()
    with RecordLog("codebook", tmp_path / "log.jsonl", True) as log:
        log.write({"step": 7, "reachability": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("codebook/reachability")] == [(7, 0.5)]


# ------------------------------------------------------------------ inspection


@pytest.fixture(scope="module")
def few() -> list[Document]:
    return [document for document, _ in zip(documents(HELD_OUT), range(12), strict=False)]


@pytest.fixture(scope="module")
def found(latent_backbone: LatentBackbone, few: list[Document]) -> Inspection:
    return inspect_codebook(latent_backbone, few)


def test_a_sample_compares_codes_in_fewer_states_and_scores_all_tokens(latent_backbone, few):
    whole = inspect_codebook(latent_backbone, few, tokens=900).metrics
    part = inspect_codebook(latent_backbone, few, tokens=900, states=100).metrics
    assert (whole.tokens, whole.states) == (900, 900)
    assert (part.tokens, part.states) == (900, 100)
    compared = ("composed_ce", "composed_excess", "distinct_tokens", "reachability", "states")
    for name, value in whole.as_dict().items():
        if name not in compared:
            assert part.as_dict()[name] == pytest.approx(value, abs=1e-4), name
    # Within three standard errors of 100 states.
    assert part.composed_excess == pytest.approx(whole.composed_excess, abs=3.0)
    assert part.distinct_tokens == pytest.approx(whole.distinct_tokens, abs=0.5)
    assert part.reachability == pytest.approx(whole.reachability, abs=0.1)
    assert part.composed_excess != whole.composed_excess


def test_the_sample_does_not_depend_on_the_batches(tiny_cola, latent_backbone):
    batch = next(packed_batches(documents(3), latent_backbone.tokenizer, rows=4, length=256))
    whole, rows = Tally(tiny_cola, sample=70), Tally(tiny_cola, sample=70)
    whole.add(batch)
    for row in range(4):
        rows.add(batch.part(row, row + 1))
    assert rows.metrics().as_dict() == pytest.approx(whole.metrics().as_dict(), abs=2e-4)
    assert rows.states == whole.states == 70


def test_the_default_budget_measures_small_models_wholly_and_bounds_large_ones():
    def budget(vocabulary: int, width: int, layers: int, intermediate: int) -> Budget:
        text = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            intermediate_size=intermediate,
            num_attention_heads=width // 64 or 1,
            tie_word_embeddings=True,
        )
        with torch.device("meta"):
            return Budget.of(CoLAForCausalLM(CoLAConfig(text_config=text, tie_word_embeddings=True)))

    small = budget(768, 96, 3, 288)
    assert (small.tokens, small.sample) == (20_000, None)
    large = budget(49_152, 576, 30, 1536)
    # Per token: 30 layers of 4.0M and 12 latent ones, 2 of 4.4M, and twice the head's 28.3M.
    assert 1_500 < large.tokens < 3_000
    assert 300 < large.states < 600
    assert budget(128_256, 4096, 2, 14_336) == Budget(1024, 64)
    with pytest.raises(ValueError, match="states must be at least 1"):
        Budget(10, 0)


def test_shares_sum_to_one(found):
    assert sum(code.share for code in found.codes) == pytest.approx(1)
    assert sum(code.policy_share for code in found.codes) == pytest.approx(1)
    assert sorted(code.code for code in found.codes) == list(range(tiny.CODES))
    used = [code for code in found.codes if code.uses]
    assert [code.uses for code in used] == sorted((code.uses for code in used), reverse=True)
    for code in used:
        for pairs, distinct in ((code.next_tokens, code.distinct_tokens), (code.contexts, None)):
            total = sum(share for _, share in pairs)
            assert 0 < total <= 1 + 1e-9
            if distinct is not None and distinct <= len(pairs):
                assert total == pytest.approx(1)
        assert 1 <= code.token_perplexity <= code.distinct_tokens + 1e-6


@torch.no_grad()
def test_tokens_and_contexts_of_a_code_equal_a_document_by_document_count(latent_backbone, few, found):
    tokenizer, model = latent_backbone.tokenizer, latent_backbone.model
    following: dict[int, Counter[int]] = {}
    before: dict[int, Counter[tuple[int, ...]]] = {}
    for document in few:
        ids = [*tokenizer.encode(document.prompt), *tokenizer.encode(document.continuation), 0]
        ids = ids[: tiny.CONTEXT]
        codes = model.infer(model.hidden(torch.tensor([ids]))).argmax(-1)[0, 1:].tolist()
        for t, code in enumerate(codes):
            following.setdefault(code, Counter())[ids[t + 1]] += 1
            before.setdefault(code, Counter())[tuple(ids[max(0, t + 1 - CONTEXT) : t + 1])] += 1
    assert {code.code for code in found.codes if code.uses} == set(following)
    for code in found.codes:
        if not code.uses:
            continue
        counts = following[code.code]
        assert code.uses == counts.total()
        assert code.distinct_tokens == len(counts)
        shares = [count / code.uses for _, count in counts.most_common(len(code.next_tokens))]
        assert [share for _, share in code.next_tokens] == pytest.approx(shares)
        texts = {tokenizer.source.decode(ids) for ids in before[code.code]}
        assert {text for text, _ in code.contexts} <= {visible(text) for text in texts}
        most = before[code.code].most_common(1)[0][1]
        assert code.contexts[0][1] == pytest.approx(most / code.uses)


def test_exactly_as_many_tokens_are_scored_as_are_asked_for(latent_backbone, few):
    part = inspect_codebook(latent_backbone, few, tokens=100)
    assert part.metrics.tokens == 100 == int(part.joint.sum())
    assert sum(code.uses for code in part.codes) == 100


def test_documents_that_are_cut_are_counted(latent_backbone):
    long = Document("Story:", " cat" * 2 * tiny.CONTEXT)
    # With the end-of-text token it fills a row to the last place.
    just = Document("", "Z" * (tiny.CONTEXT - 1))
    assert len(latent_backbone.tokenizer.encode(just.text)) == tiny.CONTEXT - 1
    assert inspect_codebook(latent_backbone, [long, just, Document("a", "b"), long]).documents_cut == 2


def test_the_end_of_text_has_its_name_and_no_text_is_taken_for_mathematics(latent_backbone, found, tmp_path):
    short = inspect_codebook(latent_backbone, [Document("Q: 1+1=", "2") for _ in range(12)])
    assert (0, latent_backbone.tokenizer.source.eos_token) in short.top_tokens
    named = [(token, "$\\no$") for token, _ in found.top_tokens]
    draw(replace(found, model="$\\x$", text="$\\y$", top_tokens=named), tmp_path / "codebook.png")
    assert (tmp_path / "codebook.png").stat().st_size > 10_000


def test_answers_are_scored_without_the_prompts_in_front_of_them(latent_backbone):
    texts = [Document("Q: 1+1=", "2") for _ in range(12)]
    encode = latent_backbone.tokenizer.encode
    whole, answers = (inspect_codebook(latent_backbone, texts, answers=only) for only in (False, True))
    assert answers.metrics.tokens == 12 * (len(encode("2")) + 1)
    assert whole.metrics.tokens == answers.metrics.tokens + 12 * (len(encode("Q: 1+1=")) - 1)
    assert {token for token, _ in answers.top_tokens} == {
        *encode("2"),
        latent_backbone.tokenizer.eos_token_id,
    }
    assert (whole.text, answers.text) == ("given documents", "given documents, answers alone")
    plain = [Document("", "some words")]
    both = [inspect_codebook(latent_backbone, plain, answers=only).metrics for only in (False, True)]
    assert both[0] == both[1], "text without prompts is scored whole"


def test_text_is_shown_on_one_line_with_its_whitespace():
    assert visible("a b\n\tc\r\x00 é") == "a␣b↵⇥c\\r\\x00␣é"


def test_the_table_has_every_used_code_and_names_the_dead(found):
    printed = table(found)
    for code in found.codes:
        if code.uses:
            assert f"\n{code.code:4}  {code.share:6.2%}" in printed
    dead = [code.code for code in found.codes if not code.uses]
    assert ("never used" in printed) == bool(dead)
    assert printed.count("warning: ") == len(found.warnings)
    assert f"{found.metrics.tokens:,} tokens" in printed
    assert "(plug-in)" in printed


def test_the_bundled_codebook_is_healthy():
    backbone = make_backbone(level="latent")
    assert isinstance(backbone, LatentBackbone)
    found = inspect_codebook(backbone, documents(HELD_OUT), tokens=1200)
    assert found.warnings == []


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_cola, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "cola"
    tiny_cola.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_inspect_prints_a_table_and_writes_json_and_plot(saved, suffix, tmp_path, capsys):
    lines = ["Costs $5 and $6, 世界.", "", "Story: The\tcat."]
    if suffix == "jsonl":
        lines = [json.dumps({"text": line}) for line in lines]
    text = tmp_path / f"mine.{suffix}"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Gg]lyph")
        argv = ["inspect", str(saved), "--text", str(text), "--out", str(out)]
        assert main([*argv, "--answers"]) == 0
        assert json.loads((out / "inspection.json").read_text())["text"] == f"mine.{suffix}, answers alone"
        assert main(argv) == 0
    assert (out / "codebook.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((out / "inspection.json").read_text(encoding="utf-8"))
    assert {"command", "commit", "packages", "hardware", "fingerprint"} <= set(written)
    assert written["text"] == f"mine.{suffix}"
    assert written["model"] == "cola"
    assert len(written["codes"]) == tiny.CODES
    assert sum(code["share"] for code in written["codes"]) == pytest.approx(1)
    assert written["metrics"]["tokens"] == sum(code["uses"] for code in written["codes"]) > 20
    assert any("only" in warning for warning in written["warnings"])
    printed = capsys.readouterr().out
    assert "warning: only" in printed
    assert "codebook.png" in printed


def bad_files(folder: Path) -> dict[str, Path]:
    contents = {
        "empty.txt": b"",
        "blank.jsonl": b'{"text": " "}\n\n',
        "broken.jsonl": b'{"text": "fine"}\n{"text": ',
        "nofield.jsonl": b'{"txt": "fine"}\n',
        "number.jsonl": b'{"text": 3}\n',
        "list.NDJSON": b'["fine"]\n',
        "cut.jsonl.gz": gzip.compress(b'{"text": "fine"}\n')[:-9],
        "latin.txt": "naïve".encode("latin-1"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in [*contents, "missing.txt"]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.txt", "holds no document with any text"),
        ("blank.jsonl", "holds no document with any text"),
        ("broken.jsonl", "line 2 is not JSON"),
        ("nofield.jsonl", "line 1 has the fields"),
        ("number.jsonl", "line 1: the field 'text' must be a string, got int"),
        ("list.NDJSON", "line 1: an object with named fields is needed, got list"),
        ("cut.jsonl.gz", "is truncated"),
        ("latin.txt", "line 1 is not UTF-8 text"),
        ("missing.txt", "there is no file"),
    ],
)
def test_text_that_cannot_be_read_is_refused_and_nothing_written(saved, name, message, tmp_path, capsys):
    path, out = bad_files(tmp_path)[name], tmp_path / "out"
    assert main(["inspect", str(saved), "--text", str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "cola: " in error
    assert message in error
    assert name in error
    assert not out.exists()


def test_read_documents_keeps_blanks_and_skips_empty_lines(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(b" one \r\n\r\n{two}\n")
    assert [document.text for document in read_documents(path)] == [" one ", "{two}"]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.jsonl.gz", "a.JSONL.GZ", "a.Ndjson.gz", "my.notes.jsonl.gz"]
)
def test_json_lines_are_read_as_objects_however_the_name_is_written(name, tmp_path):
    content = b'{"text": "one"}\n\n{"text": " two", "more": 1}\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert [document.text for document in read_documents(path)] == ["one", " two"]


def test_models_that_have_no_codes_to_infer_are_refused(tmp_path, tiny_base, tiny_tokenizer, capsys):
    models = {"without": tiny.make_cola(num_inverse_layers=0), "plain": tiny_base}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
    out = ["--out", str(tmp_path / "out")]
    assert main(["inspect", str(tmp_path / "without"), *out]) == 2
    assert "this model has no inverse dynamics" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "plain"), *out]) == 2
    assert "need a CoLAForCausalLM, got LlamaForCausalLM" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent"), *out]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert main(["inspect", "--tokens", "0", *out]) == 2
    assert "tokens must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pretraining_a_policy_says_what_ails_the_codebook(saved, tmp_path, capsys):
    argv = ["pretrain", "policy", "--source", str(saved), "--out", str(tmp_path / "policy"), "--steps", "1"]
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "warning: " in printed.err
    assert "warning: " not in printed.out
    log = (tmp_path / "policy" / "log.jsonl").read_text().splitlines()
    last = json.loads(log[-1])
    assert last["stage"] == "codebook"
    assert {"reachability", "mutual_information", "dead_codes", "composed_excess"} <= set(last)


def test_a_model_is_inspected_on_the_data_and_template_of_its_training(saved, tmp_path, capsys):
    rows = [{"question": f"{n}+1=", "answer": f"{n + 1}"} for n in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"{tmp_path / 'sums.jsonl'},prompt=question,response=answer,template=dialogue"
    out = tmp_path / "out"
    assert main(["inspect", str(saved), "--data", spec, "--out", str(out), "--states", "50"]) == 0
    written = json.loads((out / "inspection.json").read_text(encoding="utf-8"))
    assert written["text"] == "sums.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(saved)
    parts = [(f"User: {n}+1=\nAssistant: ", f"{n + 1} ") for n in range(40)]
    tokens = sum(len(tokenizer.encode(part, add_special_tokens=False)) for pair in parts for part in pair)
    assert written["metrics"]["tokens"] == tokens  # one pass; a first token is no target, an end is
    assert written["metrics"]["states"] == 50 or tokens < 20_000
    assert (
        main(["inspect", str(saved), "--data", spec, "--text", "x.txt", "--out", str(tmp_path / "no")]) == 2
    )
    assert "not both" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_policys_shares_are_over_the_states_in_which_a_code_is_chosen(span_backbone):
    found = inspect_codebook(span_backbone, documents(HELD_OUT), tokens=300)
    assert sum(code.policy_share for code in found.codes) == pytest.approx(1)
