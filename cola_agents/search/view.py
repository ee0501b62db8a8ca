"""Search trees as text and as pictures."""

from __future__ import annotations

from pathlib import Path

from cola_agents.search.forest import Tree
from cola_envs.backbone import Tokenizer


def tree_text(tree: Tree, tokenizer: Tokenizer, *, depth: int = 4, width: int = 4) -> str:
    """A tree as indented lines: visits, mean return, prior, actions and text of each edge.

    Args:
        tokenizer: the tokenizer of the searched model.
        depth: levels shown below the root.
        width: children shown of each node, the most visited; a line gives the number of the others.
    """
    lines = [f"root  visits {tree.visits(0)}  value {tree.mean(0):+.3f}"]

    def append_children(node: int, level: int) -> None:
        children = tree.children(node)
        for child in children[:width] if level <= depth else []:
            lines.append(
                f"{'  ' * level}{_short(tree, child, tokenizer)}  visits {tree.visits(child)}  "
                f"value {tree.mean(child):+.3f}  prior {tree.prior(child):.3f}"
                f"{'  end' if tree.terminal(child) else ''}"
            )
            append_children(child, level + 1)
        if level <= depth and len(children) > width:
            lines.append(f"{'  ' * level}... {len(children) - width} more")

    append_children(0, 1)
    return "\n".join(lines)


def draw_tree(tree: Tree, tokenizer: Tokenizer, path: Path | str, *, depth: int = 4, width: int = 4) -> None:
    """A tree as a picture, PNG or SVG by the suffix of ``path``.

    A node's colour is its mean return, the thickness of an edge its share of its parent's visits.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    positions, leaves = _layout(tree, depth, width)
    values = [tree.mean(node) for node in positions]
    norm = Normalize(min(0.0, *values), max(1.0, *values))
    colours = colormaps["viridis"]
    levels = max(level for level, _ in positions.values()) + 1
    figure = Figure(figsize=(3.0 * levels, max(2.5, 0.42 * leaves)), layout="constrained")
    axis = figure.subplots()
    for node, (x, y) in positions.items():
        for child in tree.children(node):
            if child in positions:
                child_x, child_y = positions[child]
                share = tree.visits(child) / max(1, tree.visits(node))
                axis.plot([x, child_x], [-y, -child_y], color="grey", linewidth=0.5 + 4 * share, zorder=1)
        marker = "s" if tree.terminal(node) else "o"
        axis.scatter(x, -y, s=90, color=colours(norm(tree.mean(node))), marker=marker, zorder=2)
        label = "root" if node == 0 else _short(tree, node, tokenizer)
        axis.annotate(
            f"{label}  {tree.visits(node)} · {tree.mean(node):+.2f}",
            (x, -y),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7,
            parse_math=False,
        )
    axis.set_xlim(-0.1, levels - 0.3)
    axis.axis("off")
    figure.savefig(path, dpi=130)


def _layout(tree: Tree, depth: int, width: int) -> tuple[dict[int, tuple[int, float]], int]:
    """Level and height of each drawn node, parents before children, and the number of leaves."""
    positions: dict[int, tuple[int, float]] = {}
    leaves = 0

    def place(node: int, level: int) -> float:
        nonlocal leaves
        positions[node] = (level, 0.0)  # enters the node before its children
        children = tree.children(node)[:width] if level < depth else []
        if children:
            heights = [place(child, level + 1) for child in children]
            height = sum(heights) / len(heights)
        else:
            height = float(leaves)
            leaves += 1
        positions[node] = (level, height)
        return height

    place(0, 0)
    return positions, leaves


def _short(tree: Tree, node: int, tokenizer: Tokenizer) -> str:
    """The actions and text of the edge to a node, in one line."""
    line = tree.line(node)
    actions = f"{line[0]}" if len(line) == 1 else f"{line[0]}..{line[-1]} ({len(line)})"
    return f"[{actions}] {tokenizer.decode(tree.tokens(node))!r:.40}"
