"""Loggers for an agent's figures: Stable-Baselines3's formats, and Weights & Biases."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, make_output_format
from stable_baselines3.common.utils import get_latest_run_id

from cola_envs.shown import shown_line

FORMATS = ("stdout", "log", "csv", "json", "tensorboard", "wandb")
#: The logged names of a record's figures; the others are logged as ``train/NAME``.
_HEADINGS = {
    "reward": "rollout/ep_rew_mean",
    "length": "rollout/ep_len_mean",
    "success": "rollout/success_rate",
    "frac_zero_advantage": "rollout/frac_zero_advantage",
    "update": "time/iterations",
    "timesteps": "time/total_timesteps",
    "episodes": "time/total_episodes",
    "cpu_s": "time/update_cpu_s",
}


class WandbOutput(KVWriter):
    """Writes figures to a new Weights & Biases run.

    Args:
        settings: keyword arguments of ``wandb.init``.

    Raises:
        ImportError: if the package is missing.
    """

    def __init__(self, **settings: Any) -> None:
        self._run: Any = _wandb().init(**settings)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Log one record."""
        kept = {key: value for key, value in key_values.items() if "wandb" not in key_excluded.get(key, ())}
        self._run.log(kept, step=step)

    def close(self) -> None:
        self._run.finish()


def check_formats(formats: Sequence[str]) -> None:
    """Raise ValueError for a format that does not exist, ImportError for one whose package is missing."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"there is no log format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    if "tensorboard" in formats:
        _need_tensorboard()
    if "wandb" in formats:
        _wandb()


def make_logger(folder: str | Path, formats: Sequence[str] = ("stdout", "csv", "json")) -> Logger:
    """A logger for ``agent.set_logger``, whose files are in ``folder``.

    Files of an earlier run are kept: the new ones have a number in their name (``progress-1.csv``).

    Args:
        formats: of ``"stdout"``, ``"log"``, ``"csv"``, ``"json"``, ``"tensorboard"``, ``"wandb"``.

    Raises:
        ValueError: for another format.
        ImportError: for one whose package is missing.
    """
    check_formats(formats)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [path.stem for path in folder.iterdir()]
    count = 0
    while any(f"{name}{_suffix(count)}" in names for name in ("progress", "log")):
        count += 1
    outputs: list[KVWriter] = [
        WandbOutput(dir=str(folder))
        if name == "wandb"
        else make_output_format(name, str(folder), _suffix(count))
        for name in formats
    ]
    return Logger(str(folder), outputs)


def default_logger(verbose: int, tensorboard_log: str | None, name: str, *, again: bool = False) -> Logger:
    """The logger of ``learn`` if none was set: stdout if ``verbose``, TensorBoard if it has a folder.

    Args:
        name: of the run; TensorBoard's folder is ``name_1``, ``name_2`` and so on.
        again: whether to continue in the last of them.
    """
    outputs: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if verbose else []
    folder = None
    if tensorboard_log is not None:
        _need_tensorboard()
        last = get_latest_run_id(tensorboard_log, name)
        folder = str(Path(tensorboard_log) / f"{name}_{last if again and last else last + 1}")
        outputs.append(make_output_format("tensorboard", folder))
    return Logger(folder, outputs)


def write_record(
    logger: Logger, record: Mapping[str, float], sample: str | None, extra: Mapping[str, float]
) -> None:
    """Write one update's record, further figures and a sample of text.

    The sample is a field in files and TensorBoard, and a line of its own on stdout and in ``log`` files.
    """
    for name, value in {**record, **extra}.items():
        heading = _HEADINGS.get(name, name if "/" in name else f"train/{name}")
        logger.record(heading, value)
    if sample is not None:
        line = shown_line(sample)  # SB3's CSV files hold a record a line
        logger.record("sample/text", line, exclude=("stdout", "log"))
        logger.info(f"sample: {line}")
    logger.dump(int(record["timesteps"]))


def _suffix(count: int) -> str:
    return f"-{count}" if count else ""


def _need_tensorboard() -> None:
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError("TensorBoard is not installed: pip install 'cola-rl[tensorboard]'") from error


def _wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("the log format 'wandb' needs its package: pip install wandb") from error
    return wandb
