"""What a policy can do: evaluations, probes, inspections, reports, the demo, and play by hand."""

from cola_agents.evaluation.run import evaluate, load_agent

__all__ = ["evaluate", "load_agent"]
