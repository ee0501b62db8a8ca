"""``Run``: the settings of one training stage, its model, data and folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cola_agents.model.shards import float_type
from cola_agents.train.adapters import LoRA
from cola_agents.train.checkpoints import differences
from cola_agents.train.data.packing import LongDocuments
from cola_agents.train.fta import Codes
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.presets import PRESETS, Preset
from cola_agents.train.specs import HUB, DataSpec
from cola_envs.jsonl import JsonObject

STAGES = ("world", "policy", "fta")
#: Flags of `cola pretrain` that are not named after the field that they set.
_FLAGS = {
    "num_codes": "--codes",
    "num_inverse_layers": "--inverse-layers",
    "num_merge_layers": "--merge-layers",
    "num_policy_layers": "--policy-layers",
}


#: Fields without which :attr:`Run.digest` is computed.
_UNDIGESTED = ("out", "device", "states", "held_out_tokens", "whole")
#: Fields with a path or a hub id, and fields whose data have one.
_PLACES, _SOURCES = ("model", "tokenizer"), ("data", "held_out")
#: Fields with changes to the preset.
_CHANGES = ("config", "grow", "codes")
#: Fields that set the length of a run.
LENGTHS = ("steps", "tokens", "epochs")


def flag_of(name: str) -> str:
    """The flag of `cola pretrain` that sets a field."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class Run:
    """The settings of a training run: stage, model, data, options and folder.

    Attributes:
        stage: ``world`` (trains inverse dynamics, codebook and world model), ``policy`` (clones the policy)
            or ``fta`` (fine-tunes the base under codes).
        model: folder or hub id of a causal LM, on which ``world`` builds a latent-action model, or of a
            latent-action model, in our format or the official one.
        out: folder to write: absent, empty, or of the same run, which is resumed.
        data: the training data; if empty, the generated corpus.
        held_out: the data on which a finished policy is measured; if empty, the generated corpus for a run
            that was trained on it, else nothing is measured. Finite data are read once, whatever their
            epochs. The model is saved before it is measured.
        held_out_tokens: how many tokens of it are scored at most; None for a number that takes a large model
            less than two minutes of one core: see :class:`~cola_agents.train.metrics.Budget`.
        tokenizer: folder or hub id; None for the model's own.
        preset: ``"tiny"`` or ``"paper"``: see :mod:`cola_agents.train.presets`.
        steps, tokens, epochs: length of the run; at most one of them, none for the preset's. The steps of
            epochs are counted in advance, by packing the data once. A run may be made longer by ``steps`` or
            ``tokens``, also after it has ended: see :meth:`is_longer_than`.
        seed: seed of new weights, data and noise; None for the preset's.
        config, grow, codes: changes to the preset, by field of
            :class:`~cola_agents.train.options.StageConfig`,
            :class:`~cola_agents.model.configuration.CoLAConfig` and
            :class:`~cola_agents.train.options.CodeConfig`.
        long: treatment of documents longer than a row; None for ``"cut"`` in ``fta`` and on the generated
            corpus, ``"chunk"`` elsewhere.
        tune: the source of the codes in ``fta``.
        reclone: whether ``fta`` clones the policy again, after training under the inverse dynamics' codes.
        lora: adapters that ``fta`` trains in place of the base's weights.
        keep_adapters: save the adapters beside an unchanged base instead of merging them into it. The
            metrics, of base and adapters together, are then saved beside the adapters.
        states: folder of a cache of the frozen base's states, for ``world`` and ``policy``, which any number
            of runs on the same base share; None for none.
        whole: save all weights, also those of an unchanged base of a folder or the hub; by default the saved
            model refers to such a base (:meth:`CoLAForCausalLM.save_pretrained`).
        device, dtype: device and type of the loaded model; trained weights are float32 during training. With
            frozen weights in a type of fewer bits, ``precision`` is ``"bf16"`` where none is given.

    Raises:
        ValueError: for contradictory settings, or settings of another stage.
    """

    stage: str
    model: str
    out: Path
    data: tuple[DataSpec, ...] = ()
    held_out: tuple[DataSpec, ...] = ()
    held_out_tokens: int | None = None
    tokenizer: str | None = None
    preset: str = "tiny"
    steps: int | None = None
    tokens: int | None = None
    epochs: int | None = None
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    grow: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Any] = field(default_factory=dict)
    long: LongDocuments | None = None
    tune: Codes = "inverse"
    reclone: bool = True
    lora: LoRA | None = None
    keep_adapters: bool = False
    states: str | None = None
    whole: bool = False
    device: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r} is not one of {STAGES}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is not one of {tuple(PRESETS)}")
        excluded: JsonObject = {}
        if self.stage != "fta":
            excluded |= {"tune": self.tune != "inverse", "reclone": not self.reclone, "lora": self.lora}
        else:
            excluded |= {"states": self.states}
        if self.stage == "world":
            excluded |= {"held_out": self.held_out, "held_out_tokens": self.held_out_tokens}
        else:
            excluded |= {"grow": self.grow, "codes": self.codes}
        wrong = [name for name, value in excluded.items() if value]
        if wrong:
            raise ValueError(f"the stage {self.stage!r} takes no {', '.join(wrong)}")
        if self.keep_adapters and self.lora is None:
            raise ValueError("there are no adapters to keep: give lora, with their rank")
        lengths = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"give only one of {' and '.join(lengths)}")
        for name in lengths:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.held_out_tokens is not None and self.held_out_tokens < 1:
            raise ValueError(f"held_out_tokens must be at least 1, got {self.held_out_tokens}")
        layers = self.grow.get("num_inverse_layers")
        if layers is not None and layers < 1:
            raise ValueError(
                f"{flag_of('num_inverse_layers')}: num_inverse_layers must be at least 1, got {layers}: the "
                "stage world trains them"
            )
        config = self.stage_config(self.epochs)
        if self._mixes_types and config.precision == "float32":
            raise ValueError(
                f"a computation in float32 (precision, --precision) takes no frozen weights in {self.dtype} "
                "(dtype, --dtype): leave one of them out, or give precision='bf16' (--precision bf16)"
            )
        self.code_config()
        if self.device and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("accelerate chooses the devices of several processes: leave device out")

    @property
    def seeded(self) -> int:
        """The seed of the run, by default the preset's."""
        return self._preset.seed if self.seed is None else self.seed

    @property
    def generated(self) -> bool:
        """Whether all training data are the generated corpus, explicitly or by default."""
        return all(spec.kind == "generated" for spec in self.data)

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def _mixes_types(self) -> bool:
        """Whether frozen weights have fewer bits than the trained ones, which are made float32."""
        low = float_type(self.dtype).itemsize < 4
        return low and not self.config.get("low_precision_weights", False)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The folders of the checkpoints of the stages that the run trains, in their order."""
        if self.stage != "fta":
            return (self.stage,)
        cloning = ("policy",) if self.tune == "inverse" and self.reclone else ()
        return (f"fta-{self.tune}", *cloning)

    def stage_config(self, steps: int | None = None) -> StageConfig:
        """The configuration of the stage: the preset's, with this run's changes."""
        changed = {"seed": self.seeded, **self.config}
        if self._mixes_types:
            changed.setdefault("precision", "bf16")
        config = self._preset.config(self.stage, steps or self.steps, changed)
        if self.tokens is not None:
            needed = math.ceil(self.tokens / (config.rows * config.length))
            config = self._preset.config(self.stage, needed, changed)
        return config

    def code_config(self) -> CodeConfig:
        return replace(self._preset.codes, **self.codes)

    def described(self) -> JsonObject:
        """The settings as JSON values; of absolute paths only the last part."""
        described = asdict(self)
        del described["out"]
        for name in ("model", "tokenizer", "states"):
            described[name] = _name(described[name])
        for spec in (*described["data"], *described["held_out"]):
            spec["source"] = _name(spec["source"])
        return described

    def places(self) -> JsonObject:
        """Digests of the places of model, tokenizer and data, by which they are the same however written."""
        places: JsonObject = {name: _place(getattr(self, name)) for name in _PLACES}
        return places | {name: [_place(spec.source) for spec in getattr(self, name)] for name in _SOURCES}

    def difference_to(self, finished: JsonObject) -> str:
        """What differs from the settings of a finished run, with both values; "" for none but more steps.

        Options are compared by what they amount to, and paths by where they lead.

        Args:
            finished: the content of the run's ``training.json``.
        """
        if not {"run", "config"} <= finished.keys():  # nothing is known but its digest
            return f"digest={finished['digest']!r}, and now it is {self.digest!r}"
        steps = finished["config"]["steps"] if self.epochs is not None else None
        described = json.loads(json.dumps(self.described(), default=str))
        config = json.loads(json.dumps(asdict(self.stage_config(steps))))
        defaults = json.loads(json.dumps(_DEFAULTS, default=str))
        before = _effective({**defaults, **finished["run"]}, {**config, **finished["config"]})
        now = _effective(described, config)
        places = finished.get("places")
        if places is not None:
            _match_places(before, places, now, self.places())
        elif not differences(before, now) and not self.is_longer_than(finished):
            # An earlier version's digest is of the paths as they were written, and of the options given.
            return (
                "options or paths that were written in another way than now, so that it cannot tell whether "
                "they are the same"
            )
        return differences(before, now, longer=len(self.checkpoints) == 1)

    def is_longer_than(self, finished: JsonObject) -> bool:
        """Whether this is a finished run with more steps, given that nothing else differs.

        The learning rate then follows the schedule of the new length from the last checkpoint on, so that it
        rises at once; the result is not that of a run that was as long from the start.

        Args:
            finished: the content of the run's ``training.json``.
        """
        return self.epochs is None and self.stage_config().steps > finished["config"]["steps"]

    @property
    def digest(self) -> str:
        """A digest of the settings, except for folders to write and the device."""
        digested = {key: value for key, value in asdict(self).items() if key not in _UNDIGESTED}
        return hashlib.sha256(json.dumps(digested, sort_keys=True, default=str).encode()).hexdigest()


def _name(path: str | None) -> str | None:
    return Path(path).name if path and Path(path).is_absolute() else path


def _place(source: str | None) -> str | None:
    """A digest of where a path leads, or of what a hub id or a kind of data is called."""
    if source is None:
        return None
    path = Path(source.removeprefix(HUB))
    place = str(path.resolve()) if path.exists() else source
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _effective(run: JsonObject, config: JsonObject) -> JsonObject:
    """The settings of a described run, with the options of its stage in place of those that were given."""
    kept = {
        name: value for name, value in run.items() if name not in (*_UNDIGESTED, *_CHANGES, "steps", "tokens")
    }
    for name in _SOURCES:
        kept[name] = [_without_defaults(spec) for spec in run[name]]
    preset = PRESETS[run["preset"]]
    if run["stage"] == "world":
        kept |= {**preset.grow, **run["grow"], **asdict(preset.codes), **run["codes"]}
    return kept | config


def _without_defaults(spec: JsonObject) -> JsonObject:
    defaults = {field.name: field.default for field in fields(DataSpec)}
    return {name: value for name, value in spec.items() if value != defaults.get(name)}


def _match_places(before: JsonObject, then: JsonObject, now: JsonObject, places: JsonObject) -> None:
    """Write paths that lead to the same place in the same way, and those that do not in different ones."""
    for name in _PLACES:
        if then[name] == places[name]:
            now[name] = before[name]
        elif now[name] == before[name]:
            now[name] = f"{now[name]} (elsewhere)"
    for name in _SOURCES:
        for old, was, new, place in zip(before[name], then[name], now[name], places[name], strict=False):
            if was == place:
                new["source"] = old["source"]
            elif new["source"] == old["source"]:
                new["source"] += " (elsewhere)"


_DEFAULTS = {field.name: field.default for field in fields(Run)}
