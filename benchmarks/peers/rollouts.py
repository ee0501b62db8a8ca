"""Rollouts and whole GRPO iterations: ours at both levels beside TRL's, a turn each."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.setting import Clock, PeerSetting, TurnGRPO, Weights
from benchmarks.peers.trl_grpo import TRLRun
from benchmarks.speed.turns import ratios


def measure_rollouts(
    setting: PeerSetting, weights: Weights, repeats: int, *, with_trl: bool
) -> dict[str, Any]:
    """Tokens a second of playing, and seconds of a whole iteration, after a turn that is not counted.

    Raises:
        RuntimeError: where contenders did not play the same prompts, or not as many tokens.
    """
    clock = Clock()
    agents = {level: TurnGRPO(level, setting, weights, clock) for level in ("latent", "token")}
    trl = TRLRun(setting, weights, clock, repeats + 1) if with_trl else None

    def others(turn: int) -> None:
        for agent in agents.values():
            agent.iterate()
        _check_same(setting, agents, trl)
        if turn == 0:
            clock.forget()

    if trl is not None:
        trl.run(others)
    else:
        for turn in range(repeats + 1):
            others(turn)
    for agent in agents.values():
        agent.close()
    return _figures(setting, clock, trl)


def _check_same(setting: PeerSetting, agents: dict[str, TurnGRPO], trl: TRLRun | None) -> None:
    played = {level: agent.played for level, agent in agents.items()}
    counts = {level: rollout.num_actions for level, rollout in played.items() if rollout is not None}
    prompts = {
        level: [ids[: int(mask.int().argmax()) + 1].tolist() for ids, mask in zip(r.ids, r.mask, strict=True)]
        for level, r in played.items()
        if r is not None
    }
    if trl is not None:
        counts["trl"] = sum(map(len, trl.rewards.completions))
        prompts["trl"] = trl.prompt_ids
    if set(counts.values()) != {setting.rows * setting.tokens}:
        raise RuntimeError(f"contenders played {counts} tokens, not {setting.rows * setting.tokens} each")
    if any(given != prompts["token"] for given in prompts.values()):
        raise RuntimeError("contenders played prompts that differ")


def _figures(setting: PeerSetting, clock: Clock, trl: TRLRun | None) -> dict[str, Any]:
    cpu, tokens = clock.cpu, setting.rows * setting.tokens
    levels = ("latent", "token")
    for level in levels:
        pairs = zip(cpu[f"{level} iteration"], cpu[f"{level} rollout"], strict=True)
        cpu[f"{level} update"] = [whole - playing for whole, playing in pairs]
    result: dict[str, Any] = {
        "rows": setting.rows,
        "prompts": setting.prompts,
        "group_size": setting.group_size,
        "tokens_per_answer": setting.tokens,
        "tokens_per_turn": tokens,
        "seconds": clock.seconds(),
        "tokens_per_cpu_s": {
            name.removesuffix(" rollout"): round(tokens / median["cpu_s"], 1)
            for name, median in clock.seconds().items()
            if name.endswith(" rollout")
        },
    }
    if trl is not None:
        result["trl_optimiser"] = trl.optimiser
        graded = [a + b for a, b in zip(cpu["trl rollout"], cpu["trl reward"], strict=True)]
        result["rollouts_faster_than_trl"] = {
            level: ratios(cpu["trl rollout"], cpu[f"{level} rollout"]) for level in levels
        }
        result["rollouts_faster_than_trl_with_grading"] = {
            level: ratios(graded, cpu[f"{level} rollout"]) for level in levels
        }
        result["iteration_faster_than_trl"] = {
            level: ratios(cpu["trl iteration"], cpu[f"{level} iteration"]) for level in levels
        }
    result["update_token_of_latent"] = ratios(cpu["token update"], cpu["latent update"])
    return result
