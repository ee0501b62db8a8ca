"""Tree search over latent or token actions.

``search`` is PUCT with any Episodes and any evaluator, ``mcts_q`` is the paper's search, and ``MCTS`` runs
either on the problems of a task. Read the modules in this order: ``config``, ``forest``, ``playout``,
``evaluators``, ``puct``, ``fitting``, ``trunk``, ``q``, ``judges``, ``mcts_q``, ``solver``, ``baselines``,
``view``.
"""

from cola_agents.search.config import Ending, Evaluate, Evaluation, SearchConfig, SearchResult
from cola_agents.search.judges import OutcomeModel, likelihood_judge, train_outcome
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.puct import search
from cola_agents.search.q import QFunction, train_q
from cola_agents.search.solver import MCTS
from cola_agents.search.view import draw_tree, tree_text
from cola_agents.train.options import QConfig

__all__ = [
    "MCTS",
    "Ending",
    "Evaluate",
    "Evaluation",
    "MCTSQConfig",
    "OutcomeModel",
    "QConfig",
    "QFunction",
    "SearchConfig",
    "SearchResult",
    "draw_tree",
    "likelihood_judge",
    "mcts_q",
    "search",
    "train_outcome",
    "train_q",
    "tree_text",
]
