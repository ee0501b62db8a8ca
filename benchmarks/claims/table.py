"""The claims and the criterion of each at the bundled scale, written down before anything was run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.claims.findings import NO_DATA, Finding, Inputs, MissingInput
from benchmarks.claims.others import search_above_greedy, semantic_diversity, time_per_update
from benchmarks.claims.runs import MATHEMATICS, agent_tasks, half, kept_without_kl, reward_after

ABSTRACT = "abstract of arXiv 2503.21383"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        name: in tables.
        paper: the paper's figure.
        source: where the paper says it.
        criterion: what decides it here, in words.
        decide: the same as code.
    """

    name: str
    paper: str
    source: str
    criterion: str
    decide: Callable[[Inputs], Finding]

    def found(self, inputs: Inputs) -> Finding:
        """Decide the claim; :data:`NO_DATA`, with the command to run, where an input is missing."""
        try:
            return self.decide(inputs)
        except MissingInput as missing:
            return Finding(NO_DATA, ours=f"missing: {missing}")


CLAIMS = (
    Claim(
        "Mathematics after RL, sampled",
        "42.4 against 38.2 on math500",
        ABSTRACT,
        "Test reward of sampled answers after RL, latent less token (all weights), each with the options "
        "that an equal search found: the 95 % interval of the paired difference lies above 0. It does not "
        "hold where the interval lies below 0, or reaches 0 and the 90 % interval lies within .05 of it.",
        reward_after(MATHEMATICS, "reward"),
    ),
    Claim(
        "Mathematics after RL, greedy",
        "42.4 against 38.2 on math500",
        ABSTRACT,
        "The same of greedy answers: sampling under an argmax world model leaves out a tail that token "
        "sampling keeps, which is no merit of RL.",
        reward_after(MATHEMATICS, "reward_greedy"),
    ),
    Claim(
        "Format reward in half the rollouts",
        "half the computation time with thinking prompts (read by us as rollouts)",
        ABSTRACT,
        "Rollouts to a training reward of .9, restricted mean, latent over token, each with the options that "
        "the search chose (the fastest that keep what the comparison names): the 95 % interval of the ratio "
        "(geometric mean of the models' own) lies at or below .5. It does not hold where the interval lies "
        "above .5. A side that did not "
        "always get there decides nothing in its own favour.",
        half("episodes"),
    ),
    Claim(
        "Format reward in half the CPU time",
        "half the computation time with thinking prompts",
        ABSTRACT,
        "The same of CPU-seconds, playing and updates together.",
        half("cpu_s"),
    ),
    Claim(
        "Base capability kept without KL",
        "not degraded by RL, unlike the baseline",
        ABSTRACT,
        "At KL weight 0: latent's loss of arithmetic and of grammar is none or within .02 for certain (90 % "
        "interval), and token loses more of at least one of them (paired difference above 0, Holm's "
        "correction over the two, and not within .02 for certain). It does not hold where latent loses more "
        "than that, or token no more than latent.",
        kept_without_kl,
    ),
    Claim(
        "Semantic diversity",
        "1.92 against 1.54 (1 / mean similarity)",
        "README of the authors' code",
        "1 less the mean similarity of continuations of one prefix, latent (argmax world model) less token, "
        "at temperatures where 90 % of the texts of either are grammatical: the 95 % interval over prefixes "
        "lies above 0; below 0 where it does not hold.",
        semantic_diversity,
    ),
    Claim(
        "Time per update",
        "half the computation time with thinking prompts (read by us as that of an update)",
        ABSTRACT,
        "CPU-seconds of an update from the same number of episodes, latent over token: at or below .5 in "
        "every turn of the measurement, for PPO and for GRPO; above it in every turn where it does not hold.",
        time_per_update,
    ),
    Claim(
        "Search above the policy alone",
        "68.2 with MCTS-Q against 42.4 without, on math500",
        ABSTRACT,
        "Accuracy of MCTS-Q over codes on level-2 arithmetic at the largest budget, less that of greedy "
        "answers of the same policy, the cloned one: the 95 % interval over problems lies above 0; below 0 "
        "where it does not hold.",
        search_above_greedy,
    ),
    Claim(
        "Agent tasks",
        "consistently above the baseline",
        ABSTRACT,
        "Test reward of sampled episodes of an agent task after RL, as for mathematics.",
        agent_tasks,
    ),
)
