"""All 500 test problems, several tries each: pass@1, pass@k and maj@k by subject and level.

MATH-500 is played where `cola data fetch math500` has brought it; otherwise the embedded substitute, whose
results say nothing about MATH, and the report says so.
"""

import warnings
from typing import Any

from cola_agents.evaluation import evaluate
from cola_agents.evaluation.reports import table
from cola_envs.tasks.math500 import SubstituteWarning


def main(samples: int = 4, episodes: int | None = None, **settings: Any) -> Any:
    warnings.simplefilter("ignore", SubstituteWarning)  # the report carries the same words
    settings.setdefault("max_tokens", 96)
    sampled = evaluate("CoLA-Math500-v0", samples=samples, episodes=episodes, env_kwargs=settings)
    greedy = evaluate("CoLA-Math500-v0", greedy=True, episodes=episodes, env_kwargs=settings)

    print(table(sampled))
    low, high = greedy["pass@1_95"]
    print(f"greedy pass@1: {greedy['pass@1']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"problems: {sampled['dataset']}, {sampled['set_hash'][:16]}")
    return sampled


if __name__ == "__main__":
    main()
