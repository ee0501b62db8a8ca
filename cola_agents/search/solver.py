"""``MCTS``: tree search on the problems of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from cola_agents.common.arguments import environment_arguments
from cola_agents.model.sampling import Drawing
from cola_agents.rl.collecting import AnyPolicy, attach, policy_session
from cola_agents.rl.rows import make_rows
from cola_agents.search.config import Evaluate, SearchConfig, SearchResult
from cola_agents.search.evaluators import RolloutEvaluator
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.playout import Judge, checked_logits
from cola_agents.search.puct import search
from cola_agents.search.q import QFunction, q_evaluator
from cola_envs.checks import check_count, check_list
from cola_envs.episodes import Episodes
from cola_envs.seeds import derived_seed


def check_search(
    config: SearchConfig | MCTSQConfig,
    *,
    q: object = None,
    judge: object = None,
    evaluate: object = None,
    leaves: str = "rollout",
) -> None:
    """Check what values a search: arguments of :class:`MCTS`, before any weights are loaded.

    Raises:
        TypeError: for arguments that exclude one another.
        ValueError: without ``q`` where it is needed, or for a judge where rewards are the environment's.
    """
    if leaves not in ("rollout", "q"):
        raise ValueError(f"leaves must be 'rollout' or 'q', got {leaves!r}")
    if isinstance(config, MCTSQConfig) and (evaluate is not None or leaves == "q"):
        raise TypeError("MCTS-Q evaluates by its own rollouts: evaluate= and leaves= are for PUCT")
    if judge is not None and config.rewards == "environment":
        raise ValueError('a judge gives the values of endings: it needs rewards="estimated"')
    if judge is not None and (evaluate is not None or leaves == "q"):
        raise TypeError("a judge gives the values of rollouts' endings: leave out evaluate= and leaves=")
    if judge is not None and q is not None and not isinstance(config, MCTSQConfig):
        raise TypeError("PUCT values endings by q= (--q) or by judge= (--judge), not both")
    if evaluate is not None and leaves == "q":
        raise TypeError("evaluate= gives the values of leaves: leave out leaves=")
    if isinstance(config, MCTSQConfig):
        q_user = "MCTS-Q"
    elif config.rewards == "estimated" and evaluate is None and judge is None:
        q_user = 'a search with rewards="estimated" and without judge= (--judge)'
    else:
        q_user = 'leaves="q"' if leaves == "q" else ""
    if q_user and q is None:
        raise ValueError(f"{q_user} needs q= (--q): a Q-function, or the folder of one (`cola pretrain q`)")


class MCTS:
    """Solves the problems of a task by tree search.

    Args:
        env: an environment id, or Episodes to search in (running episodes are dropped).
        config: a :class:`~cola_agents.search.config.SearchConfig` for PUCT (also the default), or a
            :class:`~cola_agents.search.mcts_q.MCTSQConfig` for MCTS-Q, which needs ``q``.
        q: a Q-function over the same model, or the folder of a saved one: gives the value of endings where
            rewards are estimated, and of leaves with ``leaves="q"``.
        judge: makes the judge of endings from Episodes, where rewards are estimated:
            :func:`~cola_agents.search.judges.likelihood_judge`, the method ``judge`` of an
            :class:`~cola_agents.search.judges.OutcomeModel`, or a function of your own. PUCT then needs no
            ``q``, and MCTS-Q uses it only to decide where to branch.
        policy: for priors and rollouts: any policy that :func:`cola_agents.collect` takes, for instance a
            trained agent's ``actor``; None for the model's own.
        drawing: sampling options of the policy in play-outs, as in :func:`cola_agents.collect`: a trained
            agent's ``options.drawing``; None for draws at temperature 1 from all actions. Priors are the
            policy's probabilities in either case.
        evaluate: gives priors and values of leaves for PUCT, in place of ``policy``, ``drawing`` and ``q``.
        leaves: a leaf's value in PUCT: the return of a rollout (``"rollout"``) or the value of its best
            action (``"q"``).
        num_trees: number of problems searched in parallel.
        seed: seed of the search, combined with the seed of each problem: a problem's result does not depend
            on the other problems, nor on ``num_trees`` except for the order of floating-point sums.
        env_kwargs: keyword arguments of ``gym.make``, where ``env`` is an id.
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Raises:
        TypeError: where ``env`` is neither an id nor Episodes; for arguments that exclude one another.
        ValueError: without ``q`` where it is needed (MCTS-Q, estimated rewards without a judge,
            ``leaves="q"``), for a judge where rewards are the environment's, or for a Q-function of another
            model.
    """

    def __init__(
        self,
        env: str | Episodes,
        config: SearchConfig | MCTSQConfig | None = None,
        *,
        q: Any = None,
        judge: Callable[[Episodes], Judge] | None = None,
        policy: AnyPolicy | None = None,
        drawing: Drawing | None = None,
        evaluate: Evaluate | None = None,
        leaves: Literal["rollout", "q"] = "rollout",
        num_trees: int = 16,
        seed: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> None:
        config = SearchConfig() if config is None else config
        if not isinstance(config, (SearchConfig, MCTSQConfig)):
            raise TypeError(f"config must be a SearchConfig or an MCTSQConfig, got {config!r:.80}")
        num_trees, seed = check_count("num_trees", num_trees), check_count("seed", seed, 0)
        given = environment_arguments(env_kwargs, direct, "MCTS")
        check_search(config, q=q, judge=judge, evaluate=evaluate, leaves=leaves)
        if isinstance(env, Episodes):
            if given:
                raise TypeError(f"{', '.join(given)} cannot be set where env is Episodes, not an id")
            self.episodes, self._owned = env, False
        elif isinstance(env, str):
            self.episodes, self._owned = make_rows(env, num_trees, **given).episodes, True
        else:
            raise TypeError(f"MCTS takes an environment id or Episodes, got {type(env).__name__}")
        self.config = config
        self.seed = seed
        self._policy = policy
        #: The sampling options of play-outs.
        self.drawing: Drawing = {"temperature": 1.0, **(drawing or {})}
        if isinstance(config, MCTSQConfig):
            self.drawing = config.drawing(self.drawing)
        self._leaves = leaves
        self._evaluate = evaluate
        try:
            self._logits = attach(policy, self.episodes)
            self.q = _loaded(q, self.episodes)
            self._values = None if self.q is None else self.q.attach(policy_session(self.episodes))
            self._judge = None if judge is None else judge(self.episodes)
        except BaseException:
            if self._owned:  # nobody else could close it
                self.episodes.close()
            raise

    def solve(self, seeds: Sequence[int], problem_seeds: Sequence[int] | None = None) -> SearchResult:
        """Search the problem of each seed from its beginning, with one tree per seed, in their order.

        Args:
            seeds: seeds of the episodes; combined with the search's own seed for its draws.
            problem_seeds: seeds of the problems, one for each of ``seeds``; None for ``seeds``.

        Afterwards the rows are at the beginning of the last problems. After Ctrl-C the result holds the
        problems so far, marked ``interrupted``; where there are none yet, KeyboardInterrupt is raised.

        Raises:
            TypeError: for a single seed.
            ValueError: without seeds, or where the number of problem seeds differs.
            Exception: as the search; ``error.partial_result`` is the result of the problems so far.
        """
        seeds = check_list("seeds", seeds, "a list with the seed of each problem")
        if not seeds:
            raise ValueError("there is nothing to solve: give a seed for each problem")
        problems = seeds if problem_seeds is None else list(problem_seeds)
        if len(problems) != len(seeds):
            raise ValueError(f"solve got {len(seeds)} seeds and {len(problems)} problem seeds")
        results: list[SearchResult] = []
        for start in range(0, len(seeds), self.episodes.num_rows):
            batch = seeds[start : start + self.episodes.num_rows]
            rows = list(range(len(batch)))
            try:
                self.episodes.session.forget()
                self.episodes.cut(range(self.episodes.num_rows))
                self.episodes.reset(rows, batch, problems[start : start + len(batch)])
                results.append(self._search(rows, [derived_seed(self.seed, own) for own in batch]))
            except KeyboardInterrupt:
                if not results:
                    raise
                results[-1] = replace(results[-1], interrupted=True)
            except Exception as error:
                partial = [error.partial_result] if hasattr(error, "partial_result") else []
                if results or partial:
                    error.partial_result = SearchResult.joined([*results, *partial])  # type: ignore[attr-defined]
                raise
            if results[-1].interrupted:
                break
        return SearchResult.joined(results)

    def _search(self, rows: list[int], seeds: list[int]) -> SearchResult:
        if isinstance(self.config, MCTSQConfig):
            assert self._values is not None
            return mcts_q(
                self.episodes,
                rows,
                self._logits,
                self._values,
                self.config,
                seed=seeds,
                judge=self._judge,
                drawing=self.drawing,
            )
        evaluate = self._evaluate
        if evaluate is None and self._leaves == "q":
            assert self._values is not None
            evaluate = q_evaluator(self._logits, self._values)
        if evaluate is None:
            q = self._values if self.config.rewards == "estimated" and self._judge is None else None
            evaluate = RolloutEvaluator(
                self.episodes,
                self._policy,
                **self.drawing,
                discount=self.config.discount,
                seed=seeds,
                q=q,
                judge=self._judge,
            )

        def follow(rows: Sequence[int]) -> Any:
            # As float32: numpy has no bfloat16.
            return checked_logits(self._logits(rows).detach(), rows).float().cpu().numpy()

        return search(self.episodes, rows, evaluate, self.config, follow=follow, seed=seeds)

    def close(self) -> None:
        """Close the environment if ``env`` was an id."""
        if self._owned:
            self.episodes.close()


def _loaded(q: Any, episodes: Episodes) -> QFunction | None:
    """A Q-function, or that of a folder, which fits the model of the episodes."""
    backbone: Any = episodes.backbone
    loaded = q if isinstance(q, QFunction) or q is None else QFunction.load(q, backbone)
    if loaded is not None and loaded.fingerprint != backbone.fingerprint:
        raise ValueError("the Q-function was trained over another model than that of the environment")
    return loaded
