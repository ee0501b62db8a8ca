"""The official code's own values on tiny models, reproduced; and where we differ on purpose, and why.

Every folder of ``tests/fixtures`` is used, by the files and the values that it has.
"""

from __future__ import annotations

import functools
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.model.modeling import CoLAForCausalLM, positions_of, shift_codes
from cola_agents.model.official import CODEBOOK, official_name
from cola_agents.model.sampling import distribution, sample
from cola_agents.model.shards import read_header
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import collect
from cola_agents.rl.losses import average, gae, group_advantages, reinforce_objective
from cola_agents.rl.rollout import Rollout
from cola_agents.train.code_losses import assign_codes, negative_entropy
from cola_envs import EachRow, Episodes, Turn
from cola_envs.grading import grade_answers
from tests import tiny
from tests.model.litgpt import litgpt_to_official
from tests.official import FIXTURES, drawn, fingerprint, read_model

ATOL = 1e-4


def _folders(*needed: str, record: str) -> list[Any]:
    """Folders that have a model, the needed files, and a recorded value of that name."""
    return [
        pytest.param(path.parent, id=path.parent.name)
        for path in sorted(FIXTURES.glob("*/weights.json"))
        if all((path.parent / name).is_file() for name in needed)
        and record in read_header(path.parent / "golden.safetensors")
    ]


MODELS = _folders(record="gen_sequences")
GRADIENTS = _folders("golden_grads.safetensors", "grads.json", record="base_hidden")
PRETRAINING = _folders(record="stage1_ce")


@functools.cache
def load(folder: Path) -> tuple[CoLAForCausalLM, dict[str, Tensor]]:
    """The model in float32, and the recorded values. Shared: copy what you change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the map was rebuilt")
        model = read_model(folder)
    return model, load_file(folder / "golden.safetensors")


def close(ours: Tensor, theirs: Tensor, where: Tensor | None = None) -> None:
    if where is not None:
        ours, theirs = ours[where.bool()], theirs[where.bool()]
    torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=0)


def prompt(golden: dict[str, Tensor], prefix: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, the mask of real tokens, and the mask to pass: None for unpadded rows."""
    ids = golden[f"{prefix}input_ids"]
    if not prefix:
        return ids, torch.ones_like(ids), None
    return ids, golden["lp_attention_mask"], golden["lp_attention_mask"]


both_prompts = pytest.mark.parametrize("prefix", ["", "lp_"], ids=["unpadded", "left-padded"])
every_model = pytest.mark.parametrize("folder", MODELS)


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize("folder", _folders(record="base_hidden"))
@torch.no_grad()
def test_methods_on_plain_tensors_are_the_official_ones(folder):
    """hidden(ids), infer(h), policy(h), world(h, a): nothing else is passed."""
    model, golden = load(folder)
    ids = golden["input_ids"]
    h = model.hidden(ids)
    close(h, golden["base_hidden"])
    close(model.policy(h), golden["bc_policy_logits"])
    close(model.world(h, golden["greedy_action_idx"]), golden["greedy_logits"])
    close(model.world(h, torch.full_like(ids, 3)), golden["fixed_action3_logits"])
    if "idm_logits" in golden:
        inferred = model.infer(h)
        close(inferred, golden["idm_logits"])
        assert torch.equal(inferred.argmax(-1), golden["bc_action_idx"]), "unshifted"
        assert torch.equal(shift_codes(inferred.argmax(-1)), golden["vq_action_idx"]), "shifted"


@every_model
@both_prompts
@torch.no_grad()
def test_forward_values_are_the_official_ones(folder, prefix):
    model, golden = load(folder)
    ids, real, given = prompt(golden, prefix)

    def check(name: str, ours: Tensor) -> None:
        if prefix + name in golden:
            close(ours, golden[prefix + name], real)

    if prefix:
        assert torch.equal(positions_of(real), golden["lp_position_ids"])
    h = model.hidden(ids, mask=given)
    policy = model.policy(h, mask=given)
    for name, value in {
        "base_hidden": h,
        "ea_hidden": h,
        "act_policy_logits_tau1": policy,
        "act_policy_logits_tau2": policy / 2,
        "ea_policy_logits": policy,
        "bc_policy_logits": policy,
        "fixed_action3_logits": model.world(h, torch.full_like(ids, 3)),
    }.items():
        check(name, value)
    out = model(ids, attention_mask=given)
    check("greedy_logits", out.logits)
    assert torch.equal(out.actions[real.bool()], golden[prefix + "greedy_action_idx"][real.bool()])
    last = out.action_logits[:, -1:].softmax(-1).gather(-1, out.actions[:, -1:, None]).squeeze(-1)
    assert torch.equal(out.actions[:, -1:], golden[prefix + "greedy_recorded_action_idx"])
    close(last, golden[prefix + "greedy_recorded_action_prob"])
    inferred = model.infer(h, mask=given)
    check("idm_logits", inferred)
    codes = inferred.argmax(-1)
    assert torch.equal(codes[real.bool()], golden[prefix + "bc_action_idx"][real.bool()])
    shifted = shift_codes(codes)
    assert torch.equal(shifted[real.bool()], golden[prefix + "vq_action_idx"][real.bool()])
    # The official labels count pads, whose values depend on the attention implementation.
    if not prefix:
        loss = model(ids, labels=ids, actions=shifted).loss
        close(loss[None], golden["vq_loss_shifted_ce"])
    check("vq_logits", model.world(h, shifted))


@contextmanager
def watched(modules: dict[str, torch.nn.Module], head: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """What modules give, and what goes into the head, while a model runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: seen.__setitem__(
            name, output[0] if isinstance(output, tuple) else output
        )

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    handles.append(
        head.register_forward_pre_hook(lambda m, arguments: seen.__setitem__("head", arguments[0]))
    )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@every_model
@both_prompts
@torch.no_grad()
def test_every_stage_on_the_way_is_the_official_one(folder, prefix):
    """Layer outputs, norms, codebook and merge layers, not only what comes out at the end."""
    model: Any
    model, golden = load(folder)
    ids, real, given = prompt(golden, prefix)
    modules = {f"base_layer{i}_out": layer for i, layer in enumerate(model.base.layers)}
    modules["policy_norm_out"] = model.policy_trunk.norm
    if f"{prefix}vq_action_idx" in golden:
        modules["idm_norm_out"] = model.inverse_trunk.norm
        modules["vq_codebook_out"] = model.codebook
        modules |= {f"vq_merge{i}_out_no_residual": layer for i, layer in enumerate(model.merge)}
    with watched(modules, model.lm_head) as seen:
        h = model.hidden(ids, mask=given)
        model.policy(h, mask=given)
        if "idm_norm_out" in modules:
            model.world(h, shift_codes(model.infer(h, mask=given).argmax(-1)))
            seen["vq_final_hidden"] = seen.pop("head")
    for name, value in seen.items():
        close(value, golden[prefix + name], real)


@every_model
@both_prompts
@torch.no_grad()
def test_world_under_every_code_at_once_is_the_official_one_code_by_code(folder, prefix):
    model, golden = load(folder)
    ids, _, given = prompt(golden, prefix)
    last = model.hidden(ids, mask=given)[:, -1].expand(model.config.num_codes, -1, -1)
    expected = golden[prefix + "wm_logits_all_actions_last"]
    codes = torch.arange(model.config.num_codes)[:, None].expand(-1, len(ids))
    close(model.world(last, codes)[: len(expected)], expected)


# ------------------------------------------------------------------ generation


@every_model
@both_prompts
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
@torch.no_grad()
def test_generated_tokens_codes_and_logits_are_the_official_ones(folder, prefix, cached):
    model, golden = load(folder)
    ids, real, _ = prompt(golden, prefix)
    codes, probabilities = [], []

    def greedy(logits: Tensor) -> Tensor:
        codes.append(logits[:, -1].argmax(-1))
        probabilities.append(logits[:, -1].softmax(-1).amax(-1))
        return logits.argmax(-1)

    steps = golden[f"{prefix}gen_action_idx"].shape[1]
    out = model.generate(
        ids,
        attention_mask=real,
        max_new_tokens=steps,
        eos_token_id=None,
        use_cache=cached,
        code_sampler=greedy,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences, golden[f"{prefix}gen_sequences"])
    assert torch.equal(torch.stack(codes, 1), golden[f"{prefix}gen_action_idx"])
    close(torch.stack(probabilities, 1), golden[f"{prefix}gen_action_prob"])
    close(torch.stack(out.logits, 1), golden[f"{prefix}gen_step_logits"])
    mask = functional.pad(real, (0, steps), value=1)
    whole = model(out.sequences, attention_mask=mask if prefix else None)
    close(whole.action_logits, golden[f"{prefix}gen_full_policy_logits"], mask)
    assert torch.equal(whole.actions[:, ids.shape[1] - 1 : -1], golden[f"{prefix}gen_action_idx"])


@every_model
@both_prompts
@torch.no_grad()
def test_generation_ends_at_the_official_token_and_pads_the_row(folder, prefix):
    model, golden = load(folder)
    ids, real, _ = prompt(golden, prefix)
    eos, expected = int(golden[f"{prefix}geneos_eos_token_id"]), golden[f"{prefix}geneos_sequences"]
    codes: list[Tensor] = []

    def greedy(logits: Tensor) -> Tensor:
        codes.append(logits[:, -1].argmax(-1))
        return logits.argmax(-1)

    out = model.generate(
        ids, attention_mask=real, max_new_tokens=16, eos_token_id=eos, pad_token_id=0, code_sampler=greedy
    )
    assert torch.equal(out, expected[:, : out.shape[1]])
    for row, recorded in enumerate(golden[f"{prefix}geneos_action_idx"]):
        said = out[row, ids.shape[1] :].tolist()
        length = said.index(eos) + 1 if eos in said else len(said)
        assert torch.equal(torch.stack(codes, 1)[row, :length], recorded[:length])


@every_model
@torch.no_grad()
def test_policy_after_a_cached_prefill_is_the_official_one(folder):
    model, golden = load(folder)
    cache = DynamicCache()
    for piece in (golden["input_ids"][:, :-1], golden["input_ids"][:, -1:]):
        out = model(piece, cache=cache, use_cache=True)
    close(out.action_logits[:, -1:], golden["ea_cached_last_policy_logits"])


# ------------------------------------------------------------------ sampling


def recorded_settings(name: str) -> dict[str, Any] | None:
    """``sampling_probs_k<top_k>_t<temperature>[_p<top_p>]`` as settings; one underscored row or all."""
    match = re.fullmatch(r"sampling_probs_k(\w+?)_t([\dp]+)(?:_p([\dp]+))?(?:_row\d+_1d)?", name)
    if match is None:
        return None
    k, t, p = match.groups()
    settings: dict[str, Any] = {"temperature": float(t.replace("p", "."))}
    if k != "None":
        settings["top_k"] = int(k)
    if p is not None:
        settings["top_p"] = float(p.replace("p", "."))
    return settings


@every_model
def test_sampled_distributions_are_the_official_ones(folder):
    """Single rows with top-p too, the only ones for which the official top-p works."""
    _, golden = load(folder)
    checked = 0
    for name, expected in golden.items():
        settings = recorded_settings(name)
        if settings is None or settings["temperature"] == 0:
            continue
        row = re.search(r"_row(\d+)_1d", name)
        logits = golden["sampling_logits"]
        logits = logits[int(row[1])] if row else logits
        torch.testing.assert_close(distribution(logits, **settings).exp(), expected, atol=1e-5, rtol=0)
        checked += 1
    assert checked >= 4


@every_model
def test_difference_top_p_works_in_batches(folder):
    """Officially it crashes on two rows, or keeps entries of other rows: it scatters along the wrong axis."""
    _, golden = load(folder)
    together = distribution(golden["sampling_logits"], top_k=40, top_p=0.8).exp()
    for row in range(len(together)):
        expected = golden[f"sampling_probs_k40_t1_p0p8_row{row}_1d"]
        torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=0)


@every_model
def test_difference_temperature_zero_is_greedy(folder):
    """Officially tau = 0 skips the division and samples at temperature 1."""
    _, golden = load(folder)
    official, logits = golden["sampling_probs_k40_t0"], golden["sampling_logits"]
    torch.testing.assert_close(official, golden["sampling_probs_k40_t1"])
    ours = distribution(logits, temperature=0, top_k=40).exp()
    assert torch.equal(ours, functional.one_hot(logits.argmax(-1), logits.shape[-1]).float())


@every_model
def test_difference_log_probs_are_under_the_distribution_drawn_from(folder):
    """Officially codes are drawn from the likeliest 40 and scored under all: a ratio that is never 1."""
    _, golden = load(folder)
    logits, drawn_from = golden["sampling_logits"], golden["sampling_probs_k5_t0p7"]
    u = torch.linspace(0.01, 0.99, 40)[:, None].expand(-1, len(logits))
    codes, log_probs = sample(logits.expand(40, -1, -1), u, temperature=0.7, top_k=5)
    expected = drawn_from.log().expand(40, -1, -1).gather(-1, codes[..., None]).squeeze(-1)
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=0)
    official = logits.log_softmax(-1).expand(40, -1, -1).gather(-1, codes[..., None]).squeeze(-1)
    assert (official - log_probs).abs().max() > 0.01


# ------------------------------------------------------------------ gradients


def losses_of(model: CoLAForCausalLM, golden: dict[str, Tensor]) -> dict[str, Callable[[], Tensor]]:
    """The losses whose gradients were recorded, from our own methods."""
    ids = golden["input_ids"]

    def policy_of_its_own_codes() -> Tensor:
        log_pi = model.policy(model.hidden(ids))[:, :-1].log_softmax(-1)
        return -log_pi.amax(-1).mean()

    def cloning() -> Tensor:
        with torch.no_grad():
            h = model.hidden(ids)
        codes = model.infer(h).argmax(-1)[:, 1:]
        return functional.cross_entropy(model.policy(h)[:, :-1].flatten(0, 1), codes.flatten())

    return {
        "act_mode": policy_of_its_own_codes,
        "bc_mode": cloning,
        "vq_mode": lambda: language(model, ids, golden["vq_action_idx"], model.world),
        "default_mode": lambda: language(model, ids, golden["greedy_action_idx"], model.world),
    }


def language(
    model: CoLAForCausalLM, ids: Tensor, codes: Tensor, world: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Next-token cross-entropy under given codes."""
    logits = world(model.hidden(ids), codes)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def check_gradients(model: CoLAForCausalLM, loss: Tensor, folder: Path, record: str) -> None:
    """Value, norm of every parameter's gradient, which get none, and the gradients recorded in full."""
    expected = json.loads((folder / "grads.json").read_text())[record]
    assert loss.item() == pytest.approx(expected["loss"], abs=ATOL)
    model.zero_grad()
    loss.backward()
    gradients = {official_name(name): p.grad for name, p in model.named_parameters()}
    assert {n for n, g in gradients.items() if g is not None} == {
        n for n, norm in expected["grad_norm"].items() if norm is not None
    }
    for name, gradient in gradients.items():
        if gradient is not None:
            norm = expected["grad_norm"][name]
            assert gradient.norm().item() == pytest.approx(norm, abs=ATOL, rel=1e-4), name
    for name, theirs in load_file(folder / "golden_grads.safetensors").items():
        if name.startswith(f"grad.{record}."):
            ours = gradients[name.removeprefix(f"grad.{record}.")]
            assert ours is not None
            close(ours.T if name.endswith(CODEBOOK) else ours, theirs)


@pytest.mark.parametrize("folder", GRADIENTS)
@pytest.mark.parametrize("mode", ["act_mode", "bc_mode", "vq_mode", "default_mode"])
def test_gradients_of_every_parameter_are_the_official_ones(folder, mode):
    model, golden = load(folder)
    check_gradients(model, losses_of(model, golden)[mode](), folder, f"{mode}_det0")


@pytest.mark.parametrize("folder", GRADIENTS)
def test_difference_greedy_codes_do_not_turn_the_gradient_round(folder):
    """Officially (v=1) the flag for greedy codes also detaches norm(z) in place of h.

    Then merge and codebook learn nothing and the base learns from -h, against the sign of every other
    loss. Here how a code was chosen changes no gradient. The official one is rebuilt below by hand.
    """
    model: Any
    model, golden = load(folder)
    ids, codes = golden["input_ids"], golden["greedy_action_idx"]

    def official(h: Tensor, a: Tensor) -> Tensor:
        z = h
        for layer in model.merge:
            z = z + layer(z, model.codebook(a))
        return model.lm_head(model.base.norm(z).detach() - h)

    check_gradients(model, language(model, ids, codes, official), folder, "default_mode_det1")
    assert model.codebook.weight.grad is None
    ours: Any = torch.autograd.grad(model(ids, labels=ids).loss, model.codebook.weight)
    assert ours[0].abs().sum() > 0


# ------------------------------------------------------------------ pre-training


@pytest.mark.parametrize("folder", PRETRAINING)
def test_litgpt_weights_converted_are_the_official_ones(folder):
    model, _ = load(folder)
    converted = litgpt_to_official(drawn(folder), model.base.config)
    recorded = json.loads((folder / "weights.json").read_text())["official"]
    found = {name: fingerprint(tensor) for name, tensor in converted.items()}
    assert found == pytest.approx(recorded, abs=1e-3)
    with pytest.raises(ValueError, match=r"no known tensor name begins like 'gpt\.wte"):
        litgpt_to_official({"gpt.wte.weight": torch.zeros(1)}, model.base.config)


@pytest.mark.parametrize("folder", PRETRAINING)
def test_first_stage_from_the_recorded_noise_is_the_official_one(folder):
    """Losses, and the gradient of every trained parameter."""
    model, golden = load(folder)
    with torch.no_grad():
        h = model.hidden(golden["input_ids"])
    targets = golden["targets"]
    logits = shift_codes(model.infer(h))
    close(logits, golden["stage1_idm_logits_shifted"])
    assigned = assign_codes(logits, golden["stage1_gumbel_noise"], 2.0)
    close(assigned.probs, golden["stage1_probs"])
    assert torch.equal(assigned.straight_through.argmax(-1), golden["stage1_action_idx"])
    tokens = model.world_from_vectors(h, assigned.straight_through @ model.codebook.weight)
    close(tokens, golden["stage1_logits"])
    ce = functional.cross_entropy(tokens.flatten(0, 1), targets.flatten())
    regulariser = 0.001 * negative_entropy(assigned.probs, torch.ones_like(targets))
    close(ce[None], golden["stage1_ce"])
    torch.testing.assert_close(regulariser[None], golden["stage1_reg"], atol=1e-6, rtol=0)
    close((ce + regulariser)[None], golden["stage1_total"])
    model.zero_grad()
    (ce + regulariser).backward()
    recorded = {
        name.removeprefix("grad_stage1."): gradient
        for name, gradient in golden.items()
        if name.startswith("grad_stage1.")
    }
    ours = {official_name(name): parameter.grad for name, parameter in model.named_parameters()}
    for name, theirs in litgpt_to_official(recorded, model.base.config).items():
        found = ours[name]
        assert found is not None, name
        close(found.T if name == CODEBOOK else found, theirs)


@pytest.mark.parametrize("folder", PRETRAINING)
@torch.no_grad()
def test_second_stage_and_evaluation_are_the_official_ones(folder):
    model, golden = load(folder)
    h = model.hidden(golden["input_ids"])
    codes = shift_codes(model.infer(h)).argmax(-1)
    assert torch.equal(codes, golden["stage2_target_idx"])
    policy = model.policy(h)
    close(policy, golden["stage2_policy_logits"])
    loss = functional.cross_entropy(policy.flatten(0, 1), codes.flatten())
    close(loss[None], golden["stage2_bc_loss"])
    close(model.world(h, policy.argmax(-1)), golden["eval_policy_greedy_lm_logits"])


# ------------------------------------------------------------------ answers

#: (given, truth): why our verdict is, or may be, another.
GRADED_OTHERWISE = {
    ("2/4", "1/2"): "the same number; officially a fraction must be reduced",
    ("3^{2}", "9"): "the same number; officially an integer must be written out",
    ("100000", "10^5"): "the same number; officially an integer must be written out",
    ("1e3", "1000"): "1e3 is a product in LaTeX",
    ("\\text{yes}", "yes"): "a truth that is not in \\text is a product of variables",
}


def test_graded_answers_are_the_official_ones_but_for_those_named():
    recorded = json.loads((FIXTURES / "rl_math" / "grader_golden.json").read_text())["grading"]
    verdicts = grade_answers([c["truth"] for c in recorded], [c["given"] for c in recorded])
    other = {
        (case["given"], case["truth"])
        for case, verdict in zip(recorded, verdicts, strict=True)
        if verdict.correct is not case["correct"]
    }
    assert other <= set(GRADED_OTHERWISE)


# ------------------------------------------------------------------ further differences, on any model


@torch.no_grad()
def test_difference_nothing_is_recorded_inside_the_model(cola):
    """Officially each forward appends its codes to a list on the model, in training too, until it breaks
    on another batch size. Here they are part of the output."""
    before = {name: id(value) for name, value in vars(cola).items()}
    for rows in (2, 3):
        out = cola(torch.ones(rows, 5, dtype=torch.long))
        assert out.actions.shape == (rows, 5)
    assert {name: id(value) for name, value in vars(cola).items()} == before


@torch.no_grad()
def test_difference_each_row_may_have_its_own_code(cola):
    """Officially ``forward_world_model`` takes one code for the whole batch."""
    h = cola.hidden(torch.arange(1, 13).view(3, 4))[:, -1]
    together = cola.world(h, torch.tensor([3, 0, 7]))
    for row, code in enumerate((3, 0, 7)):
        close(together[row], cola.world(h[row], torch.tensor(code)))


@torch.no_grad()
def test_difference_cached_generation_in_train_mode_is_right(tiny_cola_difference):
    """Officially ``.train()`` drops the cache silently and generates other tokens."""
    ids = torch.arange(1, 11).view(2, 5)
    settings: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": None}
    expected = tiny_cola_difference.generate(ids, use_cache=False, **settings)
    try:
        tiny_cola_difference.train()
        assert torch.equal(tiny_cola_difference.generate(ids, use_cache=True, **settings), expected)
    finally:
        tiny_cola_difference.eval()


def test_difference_a_reward_at_the_end_reaches_the_first_action_whole():
    """Officially GRPO's advantages pass through GAE with lambda 0.95 and values of 0: a reward at the end
    of 1024 tokens comes to the first as 0.95^1023. Ours are the group's, the same for all actions."""
    golden = load_file(FIXTURES / "rl_math" / "golden.safetensors")
    mask, reward = golden["action_mask"], golden["grpo_normalised_r"]
    ours = group_advantages(golden["r"], len(reward))
    at_the_end = torch.zeros(mask.shape)
    ends = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(1)
    at_the_end[torch.arange(len(mask)), ends] = reward
    none = torch.zeros(mask.shape)
    whole, _ = gae(at_the_end, none, mask, torch.zeros(len(mask)), gamma=1.0, lam=1.0)
    torch.testing.assert_close(whole, ours[:, None] * mask)
    faded, _ = gae(at_the_end, none, mask, torch.zeros(len(mask)), gamma=1.0, lam=0.95)
    kl = golden["kl"] * 0.01
    officially, _ = gae(at_the_end - kl, none, mask, torch.zeros(len(mask)), gamma=1.0, lam=0.95)
    where = mask.bool()
    close(officially[where], golden["grpo_advantages_g1_l0.95"][where])
    steps = ends - mask.argmax(1)
    first = faded[torch.arange(len(mask)), mask.argmax(1)]
    torch.testing.assert_close(first, reward * 0.95**steps)


# ------------------------------------------------------------------ generate() and the environment


class OneAnswer:
    """A prompt that depends on the problem; one segment until the budget or the end of text."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return "Q: " + "8+" * int(rng.integers(1, 9)) + "6=?\n"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text)))


def played_as_recorded(
    backbone: Any, golden: dict[str, Tensor], name: str
) -> tuple[Rollout, list[list[int]]]:
    """Episodes whose responses are the recorded ones, and those responses up to their end."""
    pad, eos = (int(part[3:]) for part in name.split("_")[1:3])
    responses = []
    for row in golden[f"{name}_in_sequences"][:, 4:].tolist():
        ended = row.index(eos) + 1 if eos in row else len([token for token in row if token != pad])
        responses.append([backbone.tokenizer.eos_token_id if t == eos else t for t in row[:ended]])
    episodes = Episodes(backbone, EachRow(OneAnswer, 4), num_rows=4, max_tokens=5)

    def scripted(session: Any, rows: list[int]) -> Tensor:
        written = [len(session.tokens[row]) - episodes.prompt_length(row) for row in rows]
        tokens = [responses[row][at] for row, at in zip(rows, written, strict=True)]
        return 100.0 * functional.one_hot(torch.tensor(tokens), backbone.vocab_size)

    return collect(episodes, scripted, seeds=range(4), temperature=0.0), responses


@pytest.mark.parametrize("name", ["proc_pad0_eos2", "proc_pad2_eos2"])
def test_action_masks_are_the_official_ones(name, token_backbone):
    """The end-of-sequence token counts as an action; nothing behind it does."""
    golden = load_file(FIXTURES / "rl_math" / "golden.safetensors")
    rollout, _ = played_as_recorded(token_backbone, golden, name)
    for n, official in enumerate(golden[f"{name}_action_mask"]):
        start = int(rollout.mask[n].int().argmax())
        ours = functional.pad(rollout.mask[n], (0, 5))[start : start + 5].int()
        assert ours.tolist() == official.tolist()


def test_difference_a_response_that_was_cut_keeps_its_last_token(token_backbone):
    """Officially it is overwritten by the end-of-sequence token: the action there no longer explains its
    token, and the reward model reads a finished answer. Here ids are what the actions gave."""
    name = "proc_pad0_eos2"
    golden = load_file(FIXTURES / "rl_math" / "golden.safetensors")
    assert golden[f"{name}_in_sequences"][1, -1] == 35
    assert golden[f"{name}_sequences"][1, -1] == 2
    rollout, responses = played_as_recorded(token_backbone, golden, name)
    written = rollout.ids[1, : int(rollout.lengths[1])][-5:]
    assert written.tolist() == responses[1] == [31, 32, 33, 34, 35]
    assert rollout.actions[1][rollout.mask[1]].tolist() == written.tolist()


def test_difference_every_action_counts_alike_in_the_loss():
    """Officially a loss is averaged over each sequence and then over the batch, which weighs an action of a
    short answer more. ``loss_mean="sequence"`` is that; the default is the mean over actions, as for a policy
    gradient, in which every action of an episode is one term."""
    golden = load_file(FIXTURES / "rl_math" / "golden.safetensors")
    mask = golden["action_mask"]
    log_probs = golden["new_log_probs"][mask.bool()].requires_grad_()
    advantages = golden["grpo_advantages_normalised_over_buffer_rightpadded0"][mask.bool()]
    gained = reinforce_objective(log_probs, advantages)
    assert -average(gained, mask, "sequence").item() == pytest.approx(
        golden["reinforce_loss"].item(), abs=ATOL
    )
    (ours,) = torch.autograd.grad(average(gained, mask, "token"), log_probs, retain_graph=True)
    (theirs,) = torch.autograd.grad(average(gained, mask, "sequence"), log_probs)
    close(ours, advantages / mask.sum())
    lengths = mask.sum(1).repeat_interleave(mask.sum(1))
    close(theirs, advantages / lengths / len(mask))


@pytest.mark.parametrize("readout", ["state", "difference"])
def test_generate_is_the_greedy_rollout_of_the_environment(readout, tiny_tokenizer):
    """Two roads: transformers' loop over left-padded rows, and episodes over ragged ones."""
    # As many embeddings as tokens: an environment never draws ids that no token stands for.
    model = tiny.make_cola(readout, base=tiny.make_base(vocab_size=len(tiny_tokenizer)))
    backbone = LatentBackbone(model, tiny_tokenizer)
    episodes = Episodes(backbone, EachRow(OneAnswer, 3), num_rows=3, max_tokens=12)
    rollout = collect(episodes, make_actor(backbone), seeds=range(7), temperature=0.0)
    starts = rollout.mask.int().argmax(1) + 1
    width = int(starts.max())
    ids, mask = torch.zeros(len(rollout), width, dtype=torch.long), torch.zeros(len(rollout), width).long()
    for row, start in enumerate(starts.tolist()):
        ids[row, width - start :] = rollout.ids[row, :start]
        mask[row, width - start :] = 1
    codes: list[Tensor] = []

    def greedy(logits: Tensor) -> Tensor:
        codes.append(logits[:, -1].argmax(-1))
        return logits.argmax(-1)

    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=12, eos_token_id=0, pad_token_id=0, code_sampler=greedy
    )
    assert len({len(rollout.ids[row, : rollout.lengths[row]]) for row in range(len(rollout))}) > 1
    for row, start in enumerate(starts.tolist()):
        said = rollout.ids[row, start : rollout.lengths[row]]
        assert torch.equal(out[row, width : width + len(said)], said)
        taken = rollout.actions[row][rollout.mask[row]]
        assert torch.equal(torch.stack(codes, 1)[row, : len(taken)], taken)
