"""``cola inspect``: what each code of a codebook is used for, measured on text.

Codes are not interpreted: each is reported with how often the inverse dynamics and the policy use it, and
with the tokens before and after its uses.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm import tqdm

from cola_agents.common.files import write_whole
from cola_agents.common.provenance import provenance
from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.loading import make_backbone
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.data.documents import AnyDocument, Mixture
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.packing import IGNORED, Batch, PackedBatches
from cola_agents.train.data.sources import FileDocuments
from cola_agents.train.health import health_warnings
from cola_agents.train.metrics import Budget, CodebookMetrics, Tally, first_targets, perplexity
from cola_agents.train.specs import DataSpec, once, open_data
from cola_envs import jsonl
from cola_envs.checks import check_count
from cola_envs.jsonl import JsonObject
from cola_envs.page.pieces import own_text
from cola_envs.shown import escaped, shown_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Tokens of a context: the state's own token and those before it in the document.
CONTEXT = 3
#: Next tokens and contexts that are listed for each code.
KEPT = 5
#: Tokens of a batch; its rows are as long as the model's context and 1,024 allow.
_BATCH, _LONGEST = 2048, 1024
_BLUE, _RED, _GREY = "#1b6ca8", "#d1495b", "#8a8a8a"


@dataclass(frozen=True)
class CodeUse:
    """Statistics of one code over the states to which the inverse dynamics assigns it.

    Attributes:
        code: its number.
        uses, share: the number of those states, and their share of all.
        policy_share: the policy's mean probability of it over all states.
        distinct_tokens: the number of different tokens that follow it.
        token_perplexity: exp of the entropy of the tokens that follow it; 0 for a code without uses.
        next_tokens: the most frequent next tokens and their shares of its uses, in falling order.
        contexts: likewise the most frequent contexts, each :data:`CONTEXT` tokens.
    """

    code: int
    uses: int
    share: float
    policy_share: float
    distinct_tokens: int
    token_perplexity: float
    next_tokens: list[tuple[str, float]]
    contexts: list[tuple[str, float]]


@dataclass(frozen=True)
class Inspection:
    """Statistics of a codebook on a text.

    Attributes:
        model, text: names of the model and of the text.
        metrics, warnings: figures of the whole codebook, and warnings about them.
        documents_cut: documents that were longer than a row and lost their end.
        codes: every code, the most used first.
        joint: how often each code went with each next token, [A, V] int64.
        top_tokens: the most frequent next tokens of the text, ids and their visible texts.
    """

    model: str
    text: str
    metrics: CodebookMetrics
    warnings: list[str]
    documents_cut: int
    codes: list[CodeUse]
    joint: Tensor
    top_tokens: list[tuple[int, str]]

    def as_dict(self) -> JsonObject:
        """JSON-ready; the table of counts is left out."""
        return {
            "model": self.model,
            "text": self.text,
            "documents_cut": self.documents_cut,
            "metrics": self.metrics.as_dict(),
            "mutual_information_is": "plug-in estimate; corrected: Miller-Madow",
            "warnings": self.warnings,
            "context_tokens": CONTEXT,
            "codes": [asdict(code) for code in self.codes],
        }


# ------------------------------------------------------------------ measuring


def inspect_codebook(
    backbone: LatentBackbone,
    text: Iterable[AnyDocument] | Mixture,
    *,
    tokens: int | None = None,
    states: int | None = None,
    answers: bool = False,
    named: str = "given documents",
) -> Inspection:
    """Measure how a codebook is used on documents, in one pass.

    Args:
        backbone: a model with inverse dynamics, and its tokenizer.
        text: documents; no more of them are read than are needed.
        tokens, states: how many tokens are scored at most, and in how many states all codes are compared; by
            default as :meth:`Budget.of <cola_agents.train.metrics.Budget.of>` chooses by the model's size.
        answers: score answers alone: what stands behind a document's prompt, and of recorded episodes the
            agent's own tokens. Where all prompts begin alike, a model knows those words by heart. Text
            without prompts is scored whole.
        named: what the report calls the text.

    Raises:
        ValueError: for fewer than one token, a model without inverse dynamics, or where no document holds
            a token.
    """
    budget = Budget.of(backbone.model, tokens, states)
    tally = Tally(backbone.model, sample=budget.sample)
    contexts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(len(tally.policy))]
    length = min(backbone.max_length, _LONGEST)
    cut = 0
    rows = max(1, _BATCH // length)
    batches = PackedBatches(
        text, backbone.tokenizer, rows=rows, length=length, long="cut", learn_prompts=not answers
    )
    with (
        fitting_threads(backbone),
        tqdm(total=budget.tokens, desc="inspect", unit="token", leave=False) as bar,
    ):
        for batch in first_targets(batches, budget.tokens):
            _count_contexts(batch, tally.add(batch), contexts)
            whole = batch.positions[:, -1] == length - 1
            cut += int((whole & (batch.ids[:, -1] != (backbone.tokenizer.eos_token_id or 0))).sum())
            bar.update(tally.tokens - bar.n)
        metrics = tally.metrics(progress=True)
    words = _Words(backbone.tokenizer)
    name = backbone.model.name_or_path or type(backbone.model).__name__
    frequent = tally.joint.sum(0).topk(min(24, tally.joint.shape[1]))
    return Inspection(
        model=Path(name).name if Path(name).is_absolute() else name,
        text=named + ", answers alone" * answers,
        metrics=metrics,
        warnings=health_warnings(metrics),
        documents_cut=cut,
        codes=_code_uses(tally, contexts, words),
        joint=tally.joint,
        top_tokens=[
            (token, words.token(token))
            for token, count in zip(frequent.indices.tolist(), frequent.values.tolist(), strict=True)
            if count
        ],
    )


def _code_uses(tally: Tally, contexts: list[Counter[tuple[int, ...]]], words: _Words) -> list[CodeUse]:
    """Every code, the most used first; ``contexts`` counts the last tokens before each use, a code each."""
    uses = tally.joint.sum(1)
    policy = (tally.policy / max(1, tally.choices)).tolist()
    return [
        CodeUse(
            code=code,
            uses=(count := int(uses[code])),
            share=count / tally.tokens,
            policy_share=policy[code],
            distinct_tokens=int((tally.joint[code] > 0).sum()),
            token_perplexity=perplexity(tally.joint[code]) if count else 0.0,
            next_tokens=_next_tokens(tally.joint[code], words),
            contexts=[(words.text(ids), n / count) for ids, n in contexts[code].most_common(KEPT)],
        )
        for code in uses.argsort(descending=True, stable=True).tolist()
    ]


def _count_contexts(batch: Batch, codes: Tensor, contexts: list[Counter[tuple[int, ...]]]) -> None:
    ids, positions = batch.ids.tolist(), batch.positions.tolist()
    for row, at in (codes != IGNORED).nonzero().tolist():
        start = at - min(positions[row][at], CONTEXT - 1)
        contexts[int(codes[row, at])][tuple(ids[row][start : at + 1])] += 1


def _next_tokens(counts: Tensor, words: _Words) -> list[tuple[str, float]]:
    best = counts.topk(min(KEPT, int((counts > 0).sum())))
    total = int(counts.sum())
    return [
        (words.token(token), count / total)
        for token, count in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


class _Words:
    """Token ids as text that shows its whitespace."""

    def __init__(self, tokenizer: PlainTokenizer) -> None:
        self._spell = tokenizer.spell

    def text(self, ids: Sequence[int]) -> str:
        return visible(self._spell(ids))

    def token(self, token: int) -> str:
        return own_text(self.text, token)


_SHOWN = {" ": "␣", "\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """Text on one line: space, newline and tab as symbols, other unprintable characters escaped."""
    return "".join(_SHOWN.get(char) or (char if char.isprintable() else escaped(char)) for char in text)


def read_documents(path: Path) -> FileDocuments:
    """The documents of a file, each once: its lines, or in a JSON-lines file the field ``text`` of each.

    Raises:
        FileNotFoundError, ValueError: as :class:`~cola_agents.train.data.sources.FileDocuments`.
    """
    return FileDocuments(path, rows=RowFormat(text="text") if jsonl.names_lines(path) else None, epochs=1)


def text_source(
    text: Path | None, data: Sequence[DataSpec] = ()
) -> tuple[Iterable[AnyDocument] | Mixture, str]:
    """The documents to measure on, and their name.

    Args:
        text: as in :func:`read_documents`.
        data: in its place, data described as for training. With neither, held-out documents of the corpus.
    """
    if data:
        return open_data(once(data), HELD_OUT), ", ".join(Path(spec.source).name for spec in data)
    if text is not None:
        return read_documents(text), text.name
    return documents(HELD_OUT), f"the generated corpus (held-out seed {HELD_OUT})"


# ------------------------------------------------------------------ reporting


def table(inspection: Inspection) -> str:
    """The figures and the codes for a terminal."""
    m = inspection.metrics
    cut = f"; {inspection.documents_cut} documents cut" if inspection.documents_cut else ""
    if m.states < m.tokens:
        cut += f"; all codes compared in {m.states:,} states"
    figures = [
        ("codes used", f"{m.codes_used} of {m.num_codes} ({m.dead_codes} dead)"),
        (
            "perplexity of the codes",
            f"{m.codebook_perplexity:.1f}; of the policy's {m.policy_perplexity:.1f}",
        ),
        (
            "mutual information with next token",
            f"{m.mutual_information:.3f} nats (plug-in), {m.mutual_information_corrected:.3f} (Miller-Madow)",
        ),
        ("distinct argmax tokens per state", f"{m.distinct_tokens:.2f}"),
        ("gold tokens within reach", f"{m.reachability:.1%}"),
        ("entropy of the policy", f"{m.policy_entropy:.3f} nats"),
        ("its argmax is the code", f"{m.clone_accuracy:.1%} of the time"),
        ("cross-entropy of the base", f"{m.base_ce:.4f} nats per token"),
        ("  of the world model, code known", f"{m.world_ce:.4f}"),
        ("  composed of policy and world", f"{m.composed_ce:.4f} ({m.composed_excess:+.4f})"),
    ]
    lines = [shown_line(f"{inspection.model} on {m.tokens:,} tokens of {inspection.text}{cut}"), ""]
    lines += [f"  {name:36}{value}" for name, value in figures]
    used = [code for code in inspection.codes if code.uses]
    rows = [
        (
            f"{code.code:4}  {code.share:6.2%}  {code.policy_share:6.2%}  {code.distinct_tokens:6}",
            _shares(code.next_tokens[:4]),
            _shares(code.contexts[:3]),
        )
        for code in used
    ]
    width = max([len(row[1]) for row in rows] + [len("next tokens")])
    lines += ["", f"code     use  policy  tokens  {'next tokens':{width}}  contexts"]
    lines += [f"{head}  {tokens:{width}}  {contexts}" for head, tokens, contexts in rows]
    dead = sorted(code.code for code in inspection.codes if not code.uses)
    if dead:
        lines.append(f"never used: {', '.join(map(str, dead))}")
    lines += ["", *(f"warning: {warning}" for warning in inspection.warnings)]
    return "\n".join(lines if inspection.warnings else lines[:-1])


def _shares(pairs: list[tuple[str, float]]) -> str:
    return "  ".join(f"{text} {share:.0%}" for text, share in pairs)


def draw(inspection: Inspection, path: Path) -> None:
    """Use, distinct tokens, and tokens by code, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(5, 6))
    _draw_bars(inspection, figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]))
    _draw_heat(inspection, figure.add_subplot(grid[:, 1]))
    m = inspection.metrics
    figure.suptitle(
        f"{shown_line(inspection.model)}: {m.codes_used} of {m.num_codes} codes used, "
        f"perplexity {m.codebook_perplexity:.1f}, "
        f"mutual information {m.mutual_information_corrected:.2f} nats, "
        f"{m.distinct_tokens:.1f} argmax tokens per state, {m.reachability:.0%} within reach",
        fontsize=11,
        parse_math=False,
    )
    figure.supxlabel(
        f"{m.tokens:,} tokens of {shown_line(inspection.text)}",
        fontsize=8,
        color=_GREY,
        x=0.99,
        ha="right",
        parse_math=False,
    )
    figure.savefig(path, dpi=120)


def _draw_bars(inspection: Inspection, use: Axes, variety: Axes) -> None:
    """Each code's share of use, and its distinct next tokens, the most used code first."""
    codes = inspection.codes
    ranks, even = range(1, len(codes) + 1), 1 / len(codes)
    use.bar(ranks, [code.share for code in codes], width=0.85, color=_BLUE, label="inverse dynamics")
    policy = [code.policy_share for code in codes]
    use.plot(ranks, policy, "o", color=_RED, markersize=3.5, label="policy (mean probability)")
    use.axhline(even, color=_GREY, linestyle=":", linewidth=1.2, label=f"even use (1/{len(codes)})")
    use.set_ylabel("share of use")
    use.set_title("Use of the codes", fontsize=10)
    use.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    distinct = [code.distinct_tokens for code in codes]
    variety.bar(ranks, distinct, width=0.85, color=_BLUE, label="distinct next tokens")
    spread = [code.token_perplexity for code in codes]
    variety.plot(ranks, spread, "o", color=_RED, markersize=3.5, label="their perplexity")
    variety.set(xlabel="codes, the most used first", ylabel="next tokens")
    variety.set_title("Next tokens of a code", fontsize=10)
    for axis in (use, variety):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, len(codes) + 1)
        handles, labels = axis.get_legend_handles_labels()
        bars_first = sorted(range(len(labels)), key=lambda i: not hasattr(handles[i], "patches"))
        axis.legend(
            [handles[i] for i in bars_first], [labels[i] for i in bars_first], frameon=False, fontsize=8
        )


def _draw_heat(inspection: Inspection, axis: Axes) -> None:
    """Shares of the most frequent tokens among each code's next tokens."""
    from matplotlib.colors import PowerNorm

    used = [code.code for code in inspection.codes if code.uses][:32]
    ids = [token for token, _ in inspection.top_tokens]
    counts = inspection.joint[used].double()
    shares = counts[:, ids] / counts.sum(1, keepdim=True)
    # Codes of one token side by side, so that what belongs together is seen together.
    most, column = shares.max(1)
    order = sorted(range(len(used)), key=lambda i: (not most[i], int(column[i]), -most[i].item()))
    # The root shows small shares, too; the colour bar says which colour is which.
    image = axis.imshow(
        shares[order].numpy(), cmap="Blues", aspect="auto", norm=PowerNorm(0.5, vmin=0, vmax=1)
    )
    axis.set_yticks(range(len(used)), [str(used[i]) for i in order], fontsize=7)
    names = [_printable(text) for _, text in inspection.top_tokens]
    axis.set_xticks(range(len(names)), names, fontsize=8, family="DejaVu Sans", parse_math=False)
    for label, name in zip(axis.get_xticklabels(), names, strict=True):
        label.set_rotation(0 if len(name) < 3 else 90)
    axis.set_ylabel("code, ordered by its most frequent token")
    axis.set_title(
        f"Next token given the code: {len(used)} most used codes, {len(ids)} most frequent tokens",
        fontsize=10,
    )
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.figure.colorbar(image, ax=axis, shrink=0.5, pad=0.01, label="share of the code's uses")


def _printable(text: str, longest: int = 14) -> str:
    """Text with signs that the font lacks escaped, shortened to fit under a column."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    drawn = "".join(char if font.get_char_index(ord(char)) else escaped(char) for char in text)
    return drawn if len(drawn) <= longest else drawn[: longest - 1] + "…"


def run_inspection(
    out: Path,
    *,
    model: object = None,
    text: Path | None = None,
    data: Sequence[DataSpec] = (),
    tokens: int | None = None,
    states: int | None = None,
    answers: bool = False,
    device: str | None = None,
    dtype: str = "float32",
) -> Inspection:
    """Measure a codebook, print its table, and write ``inspection.json`` and ``codebook.png`` into ``out``.

    Args:
        out: made where it is missing; nothing is written there if the measurement fails.
        model, device, dtype: as in :func:`cola_agents.decoding.loading.make_backbone`.
        text: as in :func:`read_documents`.
        data: in place of ``text``, data described as for training; of each, one pass is read. With neither,
            held-out documents of the generated corpus.
        tokens, states, answers: as in :func:`inspect_codebook`.

    Raises:
        FileNotFoundError, TypeError, ValueError: as those functions and :func:`inspect_codebook` do.
    """
    if text is not None and data:
        raise ValueError("give text (--text) or data (--data), not both")
    if text is not None and not text.is_file():
        raise FileNotFoundError(f"there is no file {text} to read text from")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: name a folder")
    for name, count in (("tokens", tokens), ("states", states)):
        if count is not None:
            check_count(name, count)
    source, named = text_source(text, data)
    backbone = make_backbone(model, level="latent", device=device, dtype=dtype)  # last: it takes longest
    assert isinstance(backbone, LatentBackbone)
    inspection = inspect_codebook(
        backbone, source, tokens=tokens, states=states, answers=answers, named=named
    )
    out.mkdir(parents=True, exist_ok=True)
    record = {**provenance(), "fingerprint": backbone.fingerprint, **inspection.as_dict()}
    write_whole(out / "inspection.json", json.dumps(record, indent=1, ensure_ascii=False).encode())
    draw(inspection, out / "codebook.png")
    print(table(inspection))
    print(f"\nWrote {out / 'codebook.png'} and {out / 'inspection.json'}.")
    return inspection
