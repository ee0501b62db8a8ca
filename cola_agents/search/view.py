"""Search trees as text and as pictures."""

from __future__ import annotations

from pathlib import Path

from cola_agents.search.forest import Tree
from cola_envs.backbone import Tokenizer


def tree_text(tree: Tree, tokenizer: Tokenizer, *, depth: int = 4, width: int = 4) -> str:
    """A tree as indented lines: visits, mean return, prior, actions and text of each edge.

    Args:
        tokenizer: of the searched model.
        depth: levels below the root.
        width: children of a node, the most visited; a line gives the number of the others.
    """
    lines = [f"root  visits {tree.visits(0)}  value {tree.mean(0):+.3f}"]

    def below(node: int, level: int) -> None:
        children = tree.children(node)
        for child in children[:width] if level <= depth else []:
            lines.append(
                f"{'  ' * level}{_short(tree, child, tokenizer)}  visits {tree.visits(child)}  "
                f"value {tree.mean(child):+.3f}  prior {tree.prior(child):.3f}"
                f"{'  end' if tree.terminal(child) else ''}"
            )
            below(child, level + 1)
        if level <= depth and len(children) > width:
            lines.append(f"{'  ' * level}... {len(children) - width} more")

    below(0, 1)
    return "\n".join(lines)


def draw_tree(tree: Tree, tokenizer: Tokenizer, path: Path | str, *, depth: int = 4, width: int = 4) -> None:
    """A tree as a picture, PNG or SVG by the suffix of ``path``.

    A node's colour is its mean return, the thickness of an edge its share of its parent's visits.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    nodes: list[int] = []
    place: dict[int, tuple[float, int]] = {}
    leaves = 0

    def lay(node: int, level: int) -> float:
        nonlocal leaves
        nodes.append(node)
        children = tree.children(node)[:width] if level < depth else []
        if children:
            heights = [lay(child, level + 1) for child in children]
            height = sum(heights) / len(heights)
        else:
            height = float(leaves)
            leaves += 1
        place[node] = (height, level)
        return height

    lay(0, 0)
    values = [tree.mean(node) for node in nodes]
    norm = Normalize(min(0.0, *values), max(1.0, *values))
    colours = colormaps["viridis"]
    levels = max(level for _, level in place.values()) + 1
    figure = Figure(figsize=(3.0 * levels, max(2.5, 0.42 * leaves)), layout="constrained")
    axis = figure.subplots()
    for node in nodes:
        y, x = place[node]
        for child in tree.children(node):
            if child in place:
                cy, cx = place[child]
                share = tree.visits(child) / max(1, tree.visits(node))
                axis.plot([x, cx], [-y, -cy], color="grey", linewidth=0.5 + 4 * share, zorder=1)
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


def _short(tree: Tree, node: int, tokenizer: Tokenizer) -> str:
    line = tree.line(node)
    actions = f"{line[0]}" if len(line) == 1 else f"{line[0]}..{line[-1]} ({len(line)})"
    return f"[{actions}] {tokenizer.decode(tree.tokens(node))!r:.40}"
