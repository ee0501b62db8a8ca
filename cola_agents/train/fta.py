"""Fine-tuning under actions (FTA): fine-tune the base of the latent-action model.

FTA-I trains the base under the inverse dynamics' codes, and then clones the policy again; FTA-P trains it
under the policy's codes. All other weights are frozen. Source: CoLA, arXiv 2503.21383, and its post-training
code (``train_sft_intention`` with ``--train_model`` and ``--train_policy``; ``train_sft`` with
``--intention_model``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cola_agents.model.modeling import NO_INVERSE_DYNAMICS, CoLAForCausalLM, shift_codes
from cola_agents.model.spans import read_codes
from cola_agents.train.adapters import Adapters
from cola_agents.train.data.packing import Batch
from cola_agents.train.loop import run_stage
from cola_agents.train.options import StageConfig
from cola_agents.train.stage import StageLoss
from cola_agents.train.world import random_spans
from cola_envs.jsonl import JsonObject

#: The source of the codes: the argmax of the inverse dynamics (FTA-I) or of the policy (FTA-P).
Codes = Literal["inverse", "policy"]
#: The trained modules. The official code selects by name: ".layers", "lm_head", "embed_tokens", ".norm".
BASE_MODULES = ("base", "lm_head")


class TuneLoss(StageLoss):
    """Next-token cross-entropy of the world model under the argmax codes of inverse dynamics or policy.

    The gradient reaches the base through the states that the world model reads and, where the configuration's
    ``detach_state`` is False, through the state that a difference readout subtracts. That is the official
    rule of version 2, of version 0 (``detach_state=False``), and of version 1 in FTA-I. For FTA-P the
    official script sets ``deterministic``, under which version 1 detaches norm(z) in place of h: the base
    then learns only through ``-h``, with the opposite sign of every other loss. Here the gradient does not
    depend on the source of the codes.

    Args:
        model: the model, whose trained parameters require gradients.
        codes: the source of the codes.
        adapters: the adapters trained in place of the base's weights; used by :meth:`settings` only.

    Raises:
        ValueError: for ``"inverse"`` and a model without inverse dynamics.
    """

    def __init__(self, model: CoLAForCausalLM, codes: Codes, adapters: Adapters | None = None) -> None:
        super().__init__()
        if codes not in get_args(Codes):
            raise ValueError(f"codes={codes!r} is not one of {get_args(Codes)}")
        if codes == "inverse" and model.inverse_trunk is None:
            raise ValueError(NO_INVERSE_DYNAMICS)
        self.model = model
        self._settings = {"codes": codes, "adapters": adapters and adapters.settings}
        self._codes = codes

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask, positions = self.mask(batch), batch.positions
        h = self.model.hidden(batch.ids, mask=mask, positions=positions)
        spans = random_spans(self.model, batch, h, generators)
        with torch.no_grad():
            if self._codes == "inverse":
                logits = self.model.infer(h, mask=mask, positions=positions)
                logits = shift_codes(logits) if spans is None else read_codes(logits, spans.end)
            else:
                logits = self.model.policy(h, mask=mask, positions=positions)
                logits = logits if spans is None else read_codes(logits, spans.start)
        codes = self.model.codebook(logits.argmax(-1))
        vectors = self.model.vectors(codes, None if spans is None else spans.phase)
        loss = self.token_loss(self.model.world_state(h, vectors), self.model.lm_head, batch.targets)
        return loss, {"world_ce": loss.detach()}

    def settings(self) -> JsonObject:
        return self._settings


def tune_base(
    model: CoLAForCausalLM,
    codes: Codes,
    batches: Iterator[Batch],
    config: StageConfig,
    log: Path | None = None,
    *,
    adapters: Adapters | None = None,
    checkpoints: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train the base under codes: the first step of FTA-I, or FTA-P.

    FTA-I's second step is :func:`cola_agents.train.clone.clone_policy` on the same documents. The model
    learns to continue prompts, so prompts are usually not targets (``learn_prompts=False``).

    Args:
        model: the latent-action model.
        codes: ``"inverse"`` for FTA-I, ``"policy"`` for FTA-P.
        adapters: adapters of ``model``, trained in place of the base's weights.

    Returns:
        the log records; the other arguments and errors are those of :func:`cola_agents.train.loop.run_stage`.
    """
    model.requires_grad_(False)
    trained: list[nn.Parameter]
    if adapters is None:
        for name in BASE_MODULES:
            getattr(model, name).requires_grad_(True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    else:
        trained = adapters.parameters
        for parameter in trained:
            parameter.requires_grad_(True)
    name = {"inverse": "fta-i", "policy": "fta-p"}[codes]
    objective = TuneLoss(model, codes, adapters)
    return run_stage(name, objective, trained, batches, config, log=log, checkpoints=checkpoints, say=say)
