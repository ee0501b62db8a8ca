"""The credit laboratory: values against enumeration, estimators against simulation, gradients twice."""

from __future__ import annotations

import argparse
import json
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks.credit import credit as module
from benchmarks.credit.branching import (
    Branched,
    Visited,
    best_gain,
    between_variance,
    credit,
    states_along,
    within_variance,
)
from benchmarks.credit.credit import results_of, study
from benchmarks.credit.gradients import gradient_snr, group_gradients, products_of, signal_to_noise
from cola_agents import GRPO, RLOO
from cola_agents.rl.collecting import InitialPolicy
from cola_envs import EachRow, Episodes, State, Turn
from cola_envs.seeds import derived_seed
from tests import tiny
from tests.envs.tiny import make

LETTERS = "abc"
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
PAYS = {"a": 0.1, "b": 0.7, "c": 0.4}


class Spell:
    """Three letters, each paid at the end, the first twice; ``b`` ends the text."""

    stop = ("b",)

    def reset(self, rng: np.random.Generator) -> str:
        return "?"

    def step(self, text: str) -> Turn:
        return Turn(reward=worth(text))


class Hashed:
    """What it pays follows from the whole text."""

    stop = (".",)

    def reset(self, rng: np.random.Generator) -> str:
        return f"{rng.integers(10)}:"

    def step(self, text: str) -> Turn:
        return Turn(reward=sum(map(ord, text)) % 17 / 17)


def worth(text: str) -> float:
    return sum(PAYS[letter] for letter in text) + PAYS[text[0]]


def code(letter: str) -> int:
    return ord(letter) + 1


def by_shares(session, rows):
    """A token policy that draws letters by :data:`SHARES` in every state."""
    logits = torch.full((len(rows), session.backbone.vocab_size), float("-inf"))
    for letter, share in SHARES.items():
        logits[:, code(letter)] = float(np.log(share))
    return logits


def by_prior(session, rows):
    return torch.from_numpy(session.prior(rows))


def enumerated(text: str) -> float:
    """The value of a text under :data:`SHARES`, by hand: every way to go on."""
    if text.endswith("b") or len(text) == 3:
        return worth(text)
    return sum(share * enumerated(text + letter) for letter, share in SHARES.items())


def spelling(text: str = "", num_rows: int = 5):
    """Episodes and the state after ``text``."""
    episodes = make(Spell, num_rows, max_tokens=3)
    episodes.reset([0], [0])
    for letter in text:
        episodes.step([0], [code(letter)])
    return episodes, episodes.snapshot(0)


def walked(episodes, *walks: tuple[int, ...]) -> list[State]:
    """States of as many problems, each after some actions."""
    states = []
    for seed, walk in enumerate(walks):
        episodes.reset([0], [seed])
        for action in walk:
            episodes.step([0], [action])
        states.append(episodes.snapshot(0))
    return states


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("text", ["", "a", "ca"])
def test_values_are_those_of_enumeration(text):
    episodes, state = spelling(text)
    (found,) = credit(episodes, by_shares, [state], continuations=300, seed=1)
    assert found.actions == tuple((code(letter),) for letter in "abc")
    assert found.tokens == found.actions
    np.testing.assert_allclose(found.prior, [0.5, 0.3, 0.2], rtol=1e-6)
    wanted = np.array([enumerated(text + letter) for letter in LETTERS])
    assert (np.abs(found.q - wanted) <= 4 * found.q_error + 1e-9).all()
    if len(text) == 2:  # the action ends the episode: nothing is left to chance
        np.testing.assert_allclose(found.q, wanted)
        np.testing.assert_allclose(found.q_error, 0.0, atol=1e-12)
    value = sum(share * enumerated(text + letter) for letter, share in SHARES.items())
    assert found.value == pytest.approx(value, abs=0.05)
    spread = sum(SHARES[letter] * (enumerated(text + letter) - value) ** 2 for letter in LETTERS)
    assert found.between == pytest.approx(spread, abs=0.02)
    assert found.advantages @ found.weights == pytest.approx(0.0, abs=1e-12)


def test_a_policy_without_choice_makes_values_exact():
    episodes, state = spelling("a")
    (found,) = credit(episodes, by_shares, [state], actions=[code("c"), code("a")], top_k=2, continuations=2)
    assert found.actions == ((code("a"),), (code("c"),))
    np.testing.assert_allclose(found.prior, [0.625, 0.0], atol=1e-6)  # .5 of .8; c is cut
    with pytest.raises(ValueError, match="draws none"):
        credit(episodes, by_shares, [state], actions=[code("c")], top_k=1, continuations=2)
    (greedy,) = credit(episodes, by_shares, [state], top_k=1, continuations=3)
    np.testing.assert_allclose(greedy.returns, worth("aaa"))


def test_actions_of_one_token_share_a_future_exactly():
    episodes = make(Hashed, 7, level="latent", max_tokens=5, num_codes=24)
    states = walked(episodes, (), (3,), (1, 2))
    merged = credit(episodes, by_prior, states, continuations=3, seed=4)
    assert any(len(actions) > 1 for found in merged for actions in found.actions)
    for number, (state, found) in enumerate(zip(states, merged, strict=True)):
        assert sorted(action for actions in found.actions for action in actions) == list(range(24))
        assert found.prior.sum() == pytest.approx(1.0)
        assert len(set(found.tokens)) == len(found.tokens)
        for actions, returns in zip(found.actions, found.returns, strict=True):
            for action in actions:  # each on its own, in the same place of the list of states
                alone = credit(
                    episodes, by_prior, [*states[:number], state], actions=[action], continuations=3, seed=4
                )[-1]
                np.testing.assert_array_equal(alone.returns, [returns])


def test_a_drawn_token_is_drawn_anew_in_every_continuation():
    episodes = make(Hashed, 8, level="latent", max_tokens=4, world_temperature=1.0)
    (found,) = credit(episodes, by_prior, walked(episodes, (2,)), continuations=20)
    assert [len(actions) for actions in found.actions] == [1] * 8
    assert set(found.tokens) == {()}
    assert (found.returns.std(1) > 0).all()


def test_values_do_not_depend_on_the_number_of_rows():
    answers = []
    for num_rows in (1, 6):
        episodes = make(Hashed, num_rows, level="latent", max_tokens=5)
        found = credit(episodes, by_prior, walked(episodes, (), (3,)), continuations=2)
        answers.append([each.returns for each in found])
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def hashed(latent_backbone):
    def build(num_rows: int) -> Episodes:
        return Episodes(latent_backbone, EachRow(Hashed, num_rows), num_rows=num_rows, max_tokens=9)

    return build


def test_states_are_those_of_the_policys_own_episodes(hashed):
    settings = {"positions": 3, "seed": 2}
    found = states_along(hashed(2), InitialPolicy(), [5, 6, 7], **settings)
    for visited in found:
        assert len(visited.state.actions) == visited.step < visited.length <= 9
        assert visited.state.problem_seed == visited.problem_seed
        assert visited.state.running
    for problem in (5, 6, 7):
        mine = [visited for visited in found if visited.problem_seed == problem]
        assert mine[0].step == 0
        assert len(mine) == min(3, mine[0].length)
        last = mine[-1].state.actions
        assert all(visited.state.actions == last[: visited.step] for visited in mine), "not one episode"
    assert [visited.state.tokens for visited in found] == [
        visited.state.tokens for visited in states_along(hashed(5), InitialPolicy(), [5, 6, 7], **settings)
    ]


def test_an_episode_of_one_action_has_one_state(latent_backbone):
    episodes = Episodes(latent_backbone, EachRow(Hashed, 1), num_rows=1, max_tokens=1)
    (visited,) = states_along(episodes, InitialPolicy(), [0], positions=4)
    assert (visited.step, visited.length) == (0, 1)


def test_what_cannot_be_measured_is_refused():
    episodes, state = spelling()
    with pytest.raises(ValueError, match="continuations must be at least 2"):
        credit(episodes, by_shares, [state], continuations=1)
    with pytest.raises(ValueError, match="temperature=0"):
        credit(episodes, by_shares, [state], temperature=0.0)
    with pytest.raises(ValueError, match="positions"):
        states_along(episodes, by_shares, [0], positions=0)
    episodes.restore([0], [state])
    episodes.step([0], [code("b")])
    with pytest.raises(ValueError, match="state 1 is of an episode that is over"):
        credit(episodes, by_shares, [state, episodes.snapshot(0)])
    with pytest.raises(FloatingPointError, match="not finite"):
        credit(episodes, lambda session, rows: by_shares(session, rows) * float("nan"), [state])


# ------------------------------------------------------------------ variances


def test_the_variances_are_unbiased_where_actions_share_their_luck():
    rng = np.random.default_rng(0)
    q, weights, luck = np.array([0.0, 0.3, 1.0]), np.array([0.6, 0.3, 0.1]), 1.5
    own = np.array([0.2, 1.0, 0.5])
    truth = weights @ (q - weights @ q) ** 2
    found, naive, within = [], [], []
    for _ in range(4000):
        shared = luck * rng.normal(size=4)
        returns = q[:, None] + shared + own[:, None] * rng.normal(size=(3, 4))
        found.append(between_variance(returns, weights))
        naive.append(weights @ (returns.mean(1) - weights @ returns.mean(1)) ** 2)
        within.append(within_variance(returns, weights))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(truth, abs=4 * error)
    assert np.mean(naive) > truth + 10 * error, "the case does not tell the estimators apart"
    assert np.mean(within) == pytest.approx(weights @ (luck**2 + own**2), rel=0.05)


def test_the_between_variance_is_the_mean_over_pairs_of_continuations():
    returns = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]])
    weights = np.array([0.25, 0.75])
    apart = returns - weights @ returns
    pairs = [weights @ (apart[:, k] * apart[:, m]) for k, m in product(range(3), repeat=2) if k != m]
    assert between_variance(returns, weights) == pytest.approx(np.mean(pairs))


def test_the_best_actions_gain_is_not_the_largest_of_noise():
    rng = np.random.default_rng(1)
    weights = np.full(20, 0.05)
    gains = [best_gain(rng.normal(size=(20, 8)), weights) for _ in range(1500)]
    assert np.mean(gains) == pytest.approx(0.0, abs=4 * np.std(gains) / np.sqrt(len(gains)))
    assert best_gain(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0.5, 0.5])) == pytest.approx(0.5)


def test_the_gain_is_a_lower_bound_of_the_best_actions():
    rng = np.random.default_rng(2)
    values, weights = np.linspace(0.0, 1.0, 8), np.full(8, 0.125)
    truth = values.max() - weights @ values
    means = {}
    for count in (4, 64):
        gains = [best_gain(values[:, None] + rng.normal(size=(8, count)), weights) for _ in range(400)]
        means[count] = np.mean(gains)
        assert means[count] < truth
    assert truth - means[64] < truth - means[4]


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("mean", "errors"), [(0.05, (1.2, 1.7)), (0.5, (0.8, 1.25))])
def test_signal_and_noise_of_a_known_distribution(mean, errors):
    rng = np.random.default_rng(2)
    scale = np.linspace(0.5, 1.5, 30)
    truth, spread = 30 * mean**2, (scale**2).sum()
    found = []
    for _ in range(600):
        rows = mean + scale * rng.normal(size=(12, 30))
        found.append(signal_to_noise(rows @ rows.T))
    signals = np.array([each.signal for each in found])
    error = signals.std() / np.sqrt(len(signals))
    assert signals.mean() == pytest.approx(truth, abs=4 * error)
    assert spread / 12 > 10 * error, "the plain squared norm would have passed"
    assert np.mean([each.noise for each in found]) == pytest.approx(spread, rel=0.02)
    # The jackknife is right where there is signal, and too large by about sqrt(2) where there is none.
    told = np.mean([each.error for each in found]) / np.std([each.ratio for each in found])
    assert errors[0] < told < errors[1]


def test_signal_by_hand_and_by_parts():
    # Gradients 1, 2, 3: mean 2, variance 1; 4 - 1 / 3 is left of the squared mean.
    found = signal_to_noise(np.outer([1.0, 2, 3], [1.0, 2, 3]))
    assert (found.signal, found.noise, found.count) == (pytest.approx(11 / 3), pytest.approx(1.0), 3)
    assert found.ratio == pytest.approx(11 / 3)
    parts = {"head": torch.tensor([[1.0], [2.0], [3.0]]), "trunk": torch.zeros(3, 4)}
    products = products_of(parts)
    np.testing.assert_allclose(products["all"], products["head"] + products["trunk"])
    still = signal_to_noise(products["trunk"])
    assert (still.ratio, still.error) == (None, None)
    with pytest.raises(ValueError, match="at least 3"):
        signal_to_noise(np.eye(2))


class Vowels:
    """Four tokens of text; pays for its letters, whichever."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return f"Q: {rng.integers(9)}+{rng.integers(9)}"

    def step(self, text: str) -> Turn:
        return Turn(reward=sum(map(ord, text)) % 13 / 13)


@pytest.fixture(params=["latent", "token"])
def agent(request, tiny_cola, tiny_base, tiny_tokenizer):
    middle = "" if request.param == "latent" else "-Token"
    agent = RLOO(
        f"CoLA-Text{middle}-v0",
        model=tiny_cola if request.param == "latent" else tiny_base,
        tokenizer=tiny_tokenizer,
        num_envs=8,
        prompts=4,
        group_size=2,
        kl_coef=0.0,
        env_kwargs={"task": Vowels, "max_tokens": 4},
    )
    yield agent
    agent.close()


def test_group_gradients_add_up_to_the_gradient_of_the_batch(agent):
    batch = agent.batch()
    parts = group_gradients(agent, batch, 2)
    assert {len(rows) for rows in parts.values()} == {4}
    agent.optimiser.zero_grad()
    loss, _ = agent.loss(batch)
    (loss * batch.num_decisions).backward()
    whole = {"head": [], "trunk": []}
    for name, parameter in agent.actor.trained().items():
        if not name.startswith("value_head"):
            whole[name.split(".")[0]].append(parameter.grad.flatten())
    for part, pieces in whole.items():
        torch.testing.assert_close(parts[part].sum(0), torch.cat(pieces), rtol=1e-4, atol=1e-5)
    assert parts["head"].abs().max() > 0


def test_measuring_the_gradient_teaches_the_agent_nothing(agent):
    before = {name: p.clone() for name, p in agent.actor.trained().items()}
    signals, batch = gradient_snr(agent)
    assert set(signals) == {"all", "head", "trunk"}
    assert signals["all"].count == 4
    assert signals["all"].noise == pytest.approx(signals["head"].noise + signals["trunk"].noise)
    assert (agent.num_timesteps, agent.num_episodes, agent.num_updates) == (0, 0, 0)
    for name, parameter in agent.actor.trained().items():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert torch.equal(agent.batch().rollout.actions, batch.rollout.actions), "the next update plays others"


# ------------------------------------------------------------------ the whole


def test_a_study_tells_everything_of_an_agent(agent):
    found = study(agent, problems=2, positions=2, continuations=2, num_envs=5)
    assert len(found.visited) == 4
    assert found.figures["decided"]["first"]["states"] == 2
    assert found.figures["actions_per_episode"] <= 4
    level = 16 if agent.backbone.level == "latent" else tiny.TOKENIZER
    assert 1 <= found.figures["effective_actions"] <= level
    assert found.figures["gradient"]["all"]["group_size"] == 2
    for state, branched in zip(found.states(), found.branched, strict=True):
        assert state["prompt"].startswith("Q: ")
        assert len(state["actions"]) == len(state["tokens"]) == len(state["q"]) == len(branched.q)
    json.dumps(results_of({("Text", "x"): found}))


def test_returns_that_do_not_vary_are_said_and_not_divided_by():
    flat = Branched(((1,), (2,)), ((1,), (2,)), np.array([0.5, 0.5]), np.zeros((2, 3)))
    visited = [Visited(spelling()[1], problem_seed=0, step=0, length=3)]
    told = module.decided_by_actions(visited, [flat], lambda state: True)
    assert told["share"] is None
    assert module.decided_by_actions(visited, [flat], lambda state: state.step > 0) is None


def test_the_command_writes_figures_states_table_plot_and_returns(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    module.add(parser.add_subparsers())
    out, returns = tmp_path / "credit.json", tmp_path / "returns.npz"
    few = "--groups 3 --group-size 2 --problems 1 --positions 1 --continuations 2 --max-actions 4"
    arguments = parser.parse_args(
        [
            "credit",
            "--tasks",
            "Arithmetic:level=2",
            *few.split(),
            "--out",
            str(out),
            "--returns",
            str(returns),
        ]
    )
    arguments.run(arguments)
    table = capsys.readouterr().out
    assert "| Arithmetic:level=2 | token | first | 4.0 (" in table
    assert out.with_suffix(".md").read_text() == table
    assert out.with_suffix(".png").stat().st_size > 1000
    latent, token = json.loads(out.read_text())["studies"]
    assert (latent["arm"], token["arm"]) == ("latent", "token"), "the bundled models have no rank codes"
    assert latent["visited"][0]["prompt"] == token["visited"][0]["prompt"]
    kept = np.load(returns)["Arithmetic:level=2/token/0"]
    np.testing.assert_allclose(kept.mean(1), token["visited"][0]["q"], atol=1e-4)


def test_grpo_measures_its_own_standardised_gradient(tiny_cola, tiny_tokenizer):
    agent = GRPO(
        "CoLA-Text-v0",
        model=tiny_cola,
        tokenizer=tiny_tokenizer,
        num_envs=8,
        prompts=3,
        group_size=4,
        kl_coef=0.0,
        env_kwargs={"task": Vowels, "max_tokens": 4},
    )
    signals, batch = gradient_snr(agent)
    assert len(batch.rollout) == 12
    assert signals["all"].count == 3
    agent.close()


def test_seeds_follow_from_all_their_parts():
    seeds = {derived_seed(*parts) for parts in product(range(4), repeat=3)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**53 for seed in seeds)
