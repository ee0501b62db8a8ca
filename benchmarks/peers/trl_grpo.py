"""TRL's GRPOTrainer as a contender: its own training loop, timed from outside."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.peers.setting import Clock, PeerSetting, TaskRewards, Weights

CURE = "pip install 'cola-rl[peers]', or leave this peer out with --without-trl"
#: Parts of the trainer that are timed, and the names that the clock gets.
TIMED = {"_generate": "trl rollout", "_calculate_rewards": "trl reward"}
#: What the two GRPOs do not do alike; part of every result.
DIFFERENCES = (
    "TRL adds 1e-4 to a group's standard deviation, ours nothing; of equal answers both learn nothing",
    "TRL weighs the KL (k3) by the ratio of the policies where its version does so; ours does not; at one "
    "step a batch that ratio is 1",
    "TRL takes the log-probabilities of the update for those played with, as one step a batch allows; ours "
    "keep those that were drawn with",
    "TRL's optimiser is AdamW without decay, its kernel as trl_optimiser says; ours is torch's Adam",
    "TRL logs more figures a step; no report is written by either",
    "TRL's iteration starts after its data loader has given the prompts; ours draw the problems on the clock",
    "TRL's rollout is timed with tokenising and decoding, without grading; ours grade on the clock",
)


def require_trl() -> None:
    """Raise ModuleNotFoundError, with the command to install it, where TRL is missing."""
    if find_spec("trl") is None:
        raise ModuleNotFoundError(f"TRL is not installed: {CURE}")


def endless_tokenizer(tokenizer: Any) -> Any:
    """A copy whose end-of-sequence token lies behind the model's vocabulary: it is never drawn.

    TRL needs such a token to be there, and would end an answer at the model's own.
    """
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"eos_token": "<|never|>"})
    return changed


class TRLRun:
    """A GRPOTrainer over the shared weights and problems.

    Args:
        turns: iterations that :meth:`run` makes.
        clock: gets ``"trl iteration"``, ``"trl rollout"`` and ``"trl reward"``.

    Attributes:
        rewards: the reward function; holds the last answers.
        prompt_ids: of the last iteration, as TRL tokenised them.

    Raises:
        ModuleNotFoundError: without TRL.
        RuntimeError: where this release of TRL has no such parts as are timed here.
    """

    def __init__(self, setting: PeerSetting, weights: Weights, clock: Clock, turns: int) -> None:
        require_trl()
        from datasets import Dataset
        from transformers.trainer_callback import PrinterCallback
        from trl import GRPOConfig, GRPOTrainer

        self._clock = clock
        self._folder = tempfile.TemporaryDirectory(prefix="cola-peers-")
        folder = Path(self._folder.name)
        weights.whole.save_pretrained(folder / "model")
        decode = weights.backbones["token"].tokenizer.decode
        self.rewards = TaskRewards(setting, decode)
        self.prompt_ids: list[list[int]] = []
        problems = [setting.problems(turn)[:: setting.group_size] for turn in range(turns)]
        dealt = TaskRewards(setting, decode)
        self.trainer: Any = GRPOTrainer(
            model=str(folder / "model"),
            reward_funcs=self.rewards,
            args=GRPOConfig(
                output_dir=str(folder / "out"),
                model_init_kwargs={"dtype": "float32"},
                per_device_train_batch_size=setting.rows,
                gradient_accumulation_steps=1,
                num_generations=setting.group_size,
                max_completion_length=setting.tokens,
                max_steps=turns,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                learning_rate=setting.lr,
                lr_scheduler_type="constant",
                adam_beta1=setting.betas[0],
                adam_beta2=setting.betas[1],
                weight_decay=0.0,
                max_grad_norm=setting.max_grad_norm,
                beta=setting.kl_coef,
                epsilon=setting.clip,
                loss_type="bnpo",
                scale_rewards="group",
                num_iterations=1,
                shuffle_dataset=False,
                gradient_checkpointing=False,
                use_cpu=True,
                bf16=False,
                dataloader_pin_memory=False,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(
                {
                    "prompt": [text for part in problems for text in dealt.prompts_of(part)],
                    "problem": [int(seed) for part in problems for seed in part],
                }
            ),
            processing_class=endless_tokenizer(weights.source),
        )
        self.trainer.remove_callback(PrinterCallback)
        for method, name in TIMED.items():
            self._time(method, name)

    @property
    def optimiser(self) -> str:
        """The name of the optimiser that TRL chose."""
        return str(getattr(self.trainer.args.optim, "value", self.trainer.args.optim))

    def _time(self, method: str, name: str) -> None:
        inner = getattr(self.trainer, method, None)
        if inner is None:
            from trl import __version__

            raise RuntimeError(
                f"GRPOTrainer of TRL {__version__} has no {method}, which is what is timed here: {CURE}"
            )

        @wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._clock.time(name):
                result = inner(*args, **kwargs)
            if method == "_generate":
                self.prompt_ids = [list(ids) for ids in result[0]]
            return result

        setattr(self.trainer, method, timed)

    def run(self, after: Callable[[int], None]) -> None:
        """TRL's own training; ``after`` is called with each iteration's number when it is over."""
        from transformers import TrainerCallback

        clock = self._clock

        class Turns(TrainerCallback):
            """Times each step, and runs the other contenders' turn after it."""

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self._timing = clock.time("trl iteration")
                self._timing.__enter__()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                self._timing.__exit__(None, None, None)
                after(state.global_step - 1)

        self.trainer.add_callback(Turns())
        try:
            self.trainer.train()
        finally:
            self._folder.cleanup()
