"""Tree search over latent or token actions.

``search`` is the search itself, over any Episodes and any evaluator; the other modules hold evaluators,
the Q-function and what is built of them.
"""

from cola_agents.search.config import Ending, Evaluate, Evaluation, SearchConfig, SearchResult
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.puct import search
from cola_agents.search.q import QConfig, QFunction, train_q
from cola_agents.search.solver import MCTS
from cola_agents.search.view import draw_tree, tree_text

__all__ = [
    "MCTS",
    "Ending",
    "Evaluate",
    "Evaluation",
    "MCTSQConfig",
    "QConfig",
    "QFunction",
    "SearchConfig",
    "SearchResult",
    "draw_tree",
    "mcts_q",
    "search",
    "train_q",
    "tree_text",
]
