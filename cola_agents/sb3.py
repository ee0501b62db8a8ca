"""Stable-Baselines3 on these environments: a VecEnv, a policy that starts as the cloned one, settings.

Shapes: N rows (SB3's environments), D hidden, A actions, H units of a hidden layer.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv, VectorObservationWrapper, VectorWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor, nn

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import environment_arguments
from cola_agents.model.families import CappedLinear
from cola_agents.sb3_threads import fit_algorithms
from cola_envs.build import spec_of
from cola_envs.checks import check_count
from cola_envs.fields import Info
from cola_envs.vector import CoLAVectorEnv, RowStep

#: SB3's convention: the step that ends an episode returns the next one's first observation.
SAME_STEP = AutoresetMode.SAME_STEP
NEVER = -1e9  # the logit of an id that no token stands for: finite, so that entropies stay free of NaN


class HeadBox(gym.spaces.Box):
    """A Box of observations with the linear head that turns them into action logits.

    It equals a plain Box of the same shape. The head is the model's own module, not a copy. Pickling leaves
    it out: a saved policy has its own weights.

    Args:
        size: D.
        head: D -> A, with or without bias.
        mask: the allowed actions, [A] bool.

    Attributes:
        head, mask: as given; None after unpickling.
    """

    def __init__(self, size: int, head: nn.Linear, mask: np.ndarray) -> None:
        super().__init__(-np.inf, np.inf, (size,), np.float32)
        self.head: nn.Linear | None = head
        self.mask: np.ndarray | None = mask

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "head": None, "mask": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> HeadBox:
        return copy.copy(self)

    def __copy__(self) -> HeadBox:
        twin = HeadBox.__new__(HeadBox)
        twin.__dict__.update(self.__dict__)
        return twin


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment as a Stable-Baselines3 VecEnv; all rows step in one batch.

    ``infos`` hold a dict for each row. At an episode's end it has the final info (``text``, ``success``,
    ``num_tokens``, the task's fields) and ``terminal_observation``, ``TimeLimit.truncated`` (cut, not
    ended: SB3 then adds gamma times the value of the terminal observation), ``is_success`` and
    ``episode`` (``r`` return, ``l`` length, ``t`` seconds since this object was made), so that
    ``rollout/ep_rew_mean``, ``ep_len_mean`` and ``success_rate`` are logged without a Monitor. The
    info of the reset that follows is in :attr:`reset_infos`.

    If the initial policy's head reads the observations, :attr:`observation_space` is a :class:`HeadBox`, from
    which :class:`ClonedPolicy` gets its initial weights.

    Args:
        env: an id or EnvSpec for ``gym.make_vec``, or a Gymnasium vector environment, wrapped or not, with
            same-step autoreset.
        num_envs: N, with an id only; 32 if None.
        env_kwargs: further arguments of ``gym.make_vec``, with an id only.
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Raises:
        TypeError: for another kind of ``env``, or ``num_envs`` or ``env_kwargs`` with a vector environment.
        ValueError: for a vector environment without same-step autoreset.
    """

    def __init__(
        self,
        env: str | EnvSpec | VectorEnv,
        num_envs: int | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> None:
        kwargs = environment_arguments(env_kwargs, direct, "SB3VecEnv")
        made_here = isinstance(env, (str, EnvSpec))
        if isinstance(env, (str, EnvSpec)):
            if "builder" in (env if isinstance(env, EnvSpec) else spec_of(env)).kwargs:
                kwargs.setdefault("autoreset_mode", SAME_STEP)
            env = gym.make_vec(env, num_envs=32 if num_envs is None else num_envs, **kwargs)
        elif not isinstance(env, VectorEnv):
            raise TypeError(
                f"SB3VecEnv takes an id or a Gymnasium vector environment, got {env!r}; for single "
                "environments use stable_baselines3.common.vec_env.DummyVecEnv"
            )
        elif num_envs is not None or kwargs:
            given = [*(["num_envs"] if num_envs is not None else []), *kwargs]
            raise TypeError(
                f"{', '.join(given)} cannot be set beside a vector environment, which is already made; "
                "pass them to gym.make_vec, or pass its id here"
            )
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            if made_here:
                env.close()
            raise ValueError(
                f"SB3 resets an environment in the step that ends its episode, and this one has "
                f"autoreset_mode={mode}; make it with autoreset_mode='same_step' (other packages' "
                "environments: vector_kwargs={'autoreset_mode': AutoresetMode.SAME_STEP})"
            )
        fit_algorithms(SB3VecEnv)
        self.env = env
        self._started = time.perf_counter()
        self._actions: np.ndarray | None = None
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        super().__init__(env.num_envs, _observation_space(env), env.single_action_space)

    # ---------------------------------------------------------------- episodes

    def reset(self) -> np.ndarray:
        """Start an episode in every row, with the seeds and options that were set.

        Returns:
            observations [N, D] float32, or [N, context length] int32 with ``observation="tokens"``.
        """
        seeds = None if self._seeds[0] is None else list(self._seeds)
        # Gymnasium's signature says int; its vector environments take one seed a row as well.
        observations, infos = self.env.reset(seed=seeds, options=self._options[0] or None)  # type: ignore[arg-type]
        self.reset_infos = _rows(infos, self.num_envs)
        self._returns[:] = 0
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions [N] for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step.

        Returns:
            observations, as from :meth:`reset`, rewards [N] float32, dones [N] bool and N info dicts.

        Raises:
            RuntimeError: without a :meth:`step_async` before it.
        """
        if self._actions is None:
            raise RuntimeError("step_wait() without actions: call step_async(actions) first")
        actions, self._actions = self._actions, None
        step = self._step(actions)
        dones = np.logical_or(step.terminated, step.truncated)
        self._returns += step.rewards
        self._lengths += 1
        infos = list(step.infos)
        if dones.any():
            self._finish(np.flatnonzero(dones).tolist(), step, infos)
        # A copy: SB3 adds bootstrapped values to the rewards in place.
        return step.observations, np.array(step.rewards, dtype=np.float32), dones, infos

    def _step(self, actions: np.ndarray) -> RowStep:
        """A step with a dict for each row; a wrapper's or another package's are taken out of its arrays."""
        if isinstance(self.env, CoLAVectorEnv) and type(self.env).step is CoLAVectorEnv.step:
            return self.env.step_rows(actions)
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        step = RowStep(observations, rewards, terminated, truncated, _rows(infos, self.num_envs))
        ended = np.flatnonzero(np.logical_or(terminated, truncated)).tolist()
        if ended:
            finals = _rows(infos["final_info"], self.num_envs)
            step.final_infos = {row: finals[row] for row in ended}
            step.final_observations = {row: infos["final_obs"][row] for row in ended}
        return step

    def _finish(self, ended: list[int], step: RowStep, infos: list[Info]) -> None:
        """Put the final infos of ``ended`` rows in place of those of the next episodes' starts."""
        seconds = round(time.perf_counter() - self._started, 6)
        for row in ended:
            self.reset_infos[row] = infos[row]
            final = step.final_infos[row]
            final["terminal_observation"] = step.final_observations[row]
            final["TimeLimit.truncated"] = not step.terminated[row]
            final["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": seconds}
            if "success" in final:
                final["is_success"] = bool(final["success"])
            infos[row] = final
        self._returns[ended] = 0
        self._lengths[ended] = 0

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next :meth:`reset`: row i gets ``seed + i``; None draws a seed.

        Raises:
            TypeError, ValueError: for a seed that is no integer >= 0.
        """
        return super().seed(None if seed is None else check_count("seed", seed, 0))

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Options of the next :meth:`reset`, for all rows at once.

        Raises:
            ValueError: for a list of dicts that differ: a vector environment takes one dict.
        """
        super().set_options(options)
        if any(own != self._options[0] for own in self._options):
            raise ValueError(
                "the rows of a vector environment share their options: pass one dict; an option of these "
                "environments may itself hold a list, such as {'problem_seed': [0, 1, 2]}"
            )

    def close(self) -> None:
        self.env.close()

    # ---------------------------------------------------------------- looking inside

    @property
    def backbone(self) -> Any:
        """The backbone of these environments; None for environments of other packages."""
        return getattr(getattr(self.env.unwrapped, "episodes", None), "backbone", None)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the outermost wrapper or environment that has it, once for each row."""
        return [getattr(self._layer(attr_name), attr_name)] * len(self._indices(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the outermost wrapper or environment that has it, else of the environment.

        Raises:
            ValueError: for some rows only: all rows share one object.
        """
        if len(set(self._indices(indices))) < self.num_envs:
            raise ValueError(f"the rows share one environment: {attr_name!r} can only be set for all of them")
        layers = [layer for layer in _layers(self.env) if hasattr(layer, attr_name)]
        setattr(layers[0] if layers else self.env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment once; returns the result for each of ``indices``.

        Of a list or array of length N, and of what ``render`` returns, each row gets its entry (of
        ``action_masks`` [A] bool); any other result, also a tuple such as that of ``reset``, is the same for
        all rows.
        """
        result = getattr(self._layer(method_name), method_name)(*method_args, **method_kwargs)
        dealt = (list, tuple, np.ndarray) if method_name == "render" else (list, np.ndarray)
        each = isinstance(result, dealt) and len(result) == self.num_envs
        return [result[row] if each else result for row in self._indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Whether the environment has a wrapper; True for ``Monitor``, whose work this class does."""
        wrapped = any(isinstance(layer, wrapper_class) for layer in _layers(self.env))
        return [wrapped or issubclass(wrapper_class, Monitor)] * len(self._indices(indices))

    def get_images(self) -> Sequence[np.ndarray | None]:
        return list(self.env.render() or [])  # type: ignore[arg-type]

    def render(self, mode: str | None = None) -> Any:
        """Render the vector environment: ``"ansi"`` returns a tuple of N texts, ``"human"`` prints them."""
        if self.render_mode in (None, "rgb_array") or mode not in (None, self.render_mode):
            return super().render(mode)
        return self.env.render()

    def _layer(self, name: str) -> Any:
        for layer in _layers(self.env):
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"{self.env} has no attribute {name!r}")

    def _indices(self, indices: VecEnvIndices) -> list[int]:
        chosen: Iterable[int] = self._get_indices(indices)
        return list(chosen)


def _layers(env: VectorEnv) -> list[VectorEnv]:
    """A vector environment's wrappers, outermost first, and the environment itself."""
    layers = [env]
    while isinstance(layers[-1], VectorWrapper):
        layers.append(layers[-1].env)
    return layers


def _observation_space(env: VectorEnv) -> gym.Space:
    """A :class:`HeadBox` if the initial policy's head reads the observations, else the env's own space."""
    space = env.single_observation_space
    episodes = getattr(env.unwrapped, "episodes", None)
    backbone = getattr(episodes, "backbone", None)
    if episodes is None or backbone is None or not hasattr(backbone, "initial_policy"):
        return space
    changed = any(isinstance(layer, VectorObservationWrapper) for layer in _layers(env))
    changed = changed or env.single_action_space != episodes.action_space
    reads = ("features", "hidden") if backbone.level == "token" else ("features",)
    if changed or episodes.observation not in reads:
        return space
    _, head = backbone.initial_policy()
    return HeadBox(backbone.hidden_size, head, episodes.action_mask)


def _rows(infos: dict[str, Any], num_rows: int) -> list[dict[str, Any]]:
    """Gymnasium's dict of columns, each with a mask ``_key``, as a dict for each row."""
    rows: list[dict[str, Any]] = [{} for _ in range(num_rows)]
    for key, column in infos.items():
        if key in ("final_obs", "final_info", "_final_obs", "_final_info"):
            continue
        if key.startswith("_") and key[1:] in infos:
            continue
        values: Sequence[Any]
        if isinstance(column, dict):
            values = _rows(column, num_rows)
        elif isinstance(column, np.ndarray) and column.shape[:1] == (num_rows,):
            values = column.tolist() if column.ndim == 1 else list(column)
        else:
            values = [column] * num_rows
        mask = infos.get(f"_{key}")
        if mask is None or mask.all():
            for info, value in zip(rows, values, strict=True):
                info[key] = value
        else:
            for row in np.flatnonzero(mask).tolist():
                rows[row][key] = values[row]
    return rows


class _BesideFeatures(nn.Module):
    """SB3's MLPs, with the features appended to the policy's output: [B, D] -> [B, D + H]."""

    def __init__(self, mlp: MlpExtractor, features_dim: int) -> None:
        super().__init__()
        self.mlp = mlp
        self.latent_dim_pi = features_dim + mlp.latent_dim_pi
        self.latent_dim_vf = mlp.latent_dim_vf

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.mlp.forward_actor(features)], dim=-1)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.mlp.forward_critic(features)


class ClonedPolicy(ActorCriticPolicy):
    """An SB3 actor-critic policy that starts exactly as the model's initial policy.

    That is the behaviour-cloned policy at latent level (with ``observation="features"``) and the language
    model itself at token level. Logits are a linear layer on the observation and a residual MLP of it. The
    layer starts as a copy of the model's head, with zero weights for the MLP; all of it is trained. The value
    network is an MLP whose output starts at 0. Actions that are not allowed are never drawn.

    Args:
        observation_space: that of an :class:`SB3VecEnv`, which holds the head.
        action_space: Discrete(A).
        lr_schedule: SB3's.
        net_arch: hidden layers of the residual and of the value network; ``[256]`` each if None.
        activation_fn: of both.
        kwargs: other arguments of :class:`ActorCriticPolicy`.

    Raises:
        ValueError: for observations that the head does not read.

    Do not use it under ``VecNormalize(norm_obs=True)`` or other wrappers that change observations. After
    ``PPO.load`` the weights are the saved ones.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        **kwargs: Any,
    ) -> None:
        if not isinstance(observation_space, HeadBox):
            raise ValueError(
                "ClonedPolicy starts as the linear head of the model's initial policy, which does not read "
                f"these observations, {observation_space}; make the environments with "
                'SB3VecEnv(..., env_kwargs={"observation": "features"}) (at token level "hidden" will do '
                "too), without wrappers that change observations, over a backbone with initial_policy()"
            )
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            [256] if net_arch is None else net_arch,
            activation_fn,
            **kwargs,
        )

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor: Any = _BesideFeatures(self.mlp_extractor, self.features_dim)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        space = self.observation_space
        assert isinstance(space, HeadBox)
        layer: Any = self.action_net
        value: Any = self.value_net
        with torch.no_grad():
            # Random values would be the only advantages until the first reward.
            value.weight.zero_()
            value.bias.zero_()
            if space.head is None or space.mask is None:
                return  # unpickled: the saved weights are loaded next
            if isinstance(space.head, CappedLinear):
                raise ValueError(
                    f"the model caps its logits at {space.head.cap:g}, which Stable-Baselines3's linear head "
                    "cannot do: use cola_agents.PPO or GRPO for its tokens"
                )
            layer.weight.zero_()
            layer.weight[:, : space.head.in_features] = space.head.weight
            layer.bias.zero_()
            if space.head.bias is not None:
                layer.bias.copy_(space.head.bias)
            layer.bias[torch.from_numpy(~space.mask)] = NEVER


ALGORITHMS = ("a2c", "ppo")


def sb3_defaults(algorithm: str, venv: VecEnv) -> dict[str, Any]:
    """Keyword arguments for SB3's PPO or A2C that suit these environments.

    In them a reward comes at an episode's end and is often rare. So gamma and GAE's lambda are 1 (with the
    usual lambda of .95 a reward reaches an action a hundred steps earlier as .006 of it), and rollouts are
    short: about 2,048 steps over all rows, more only if an episode would not fit (SB3's own 2,048 steps a row
    would be one update in 65,536 steps). Minibatches divide the rollouts. The learning rate is lower at token
    level, where larger steps damage the language model.

    PPO is recommended. A2C makes one step for each rollout, without normalised advantages (which would scale
    rollouts without reward to full size). It learns if rewards are frequent, and did not in 160,000 steps
    where one episode in 200 is rewarded at first.

    Args:
        algorithm: ``"ppo"`` or ``"a2c"``.
        venv: an :class:`SB3VecEnv`, wrapped or not.

    Returns:
        a new dict for ``sb3.PPO(policy, venv, **settings)``, for the policies ``"MlpPolicy"`` and
        :class:`ClonedPolicy`. If some actions are not allowed (a vocabulary larger than the tokenizer's),
        only the latter never draws them.

    Raises:
        ValueError: for another algorithm.
        TypeError: for another kind of environment.
    """
    if algorithm not in ALGORITHMS:
        names = " or ".join(map(repr, ALGORITHMS))
        raise ValueError(f"there are settings for {names}, not for {algorithm!r}")
    inner = venv.unwrapped if isinstance(venv, VecEnv) else venv
    if not isinstance(inner, SB3VecEnv):
        raise TypeError(f"sb3_defaults reads the settings of an SB3VecEnv, got {venv!r}")
    episodes = getattr(inner.env.unwrapped, "episodes", None)
    backbone = inner.backbone
    model = getattr(backbone, "model", None)
    settings: dict[str, Any] = {
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "learning_rate": 3e-4 if getattr(backbone, "level", None) == "token" else 1e-3,
        "ent_coef": 0.003,
        "policy_kwargs": {"net_arch": [256], "activation_fn": nn.SiLU},
        "device": "cpu" if model is None else str(model.device),
    }
    if algorithm == "a2c":
        return {
            **settings,
            "learning_rate": 1e-3,
            "n_steps": 8,
            "normalize_advantage": False,
            "use_rms_prop": False,
        }
    # Multiples of 64: a minibatch then divides the buffer whatever the number of rows.
    longest = min(getattr(episodes, "max_tokens", 64), 256)
    n_steps = 64 * max(-(-longest // 64), -(-2048 // (64 * inner.num_envs)))
    size = n_steps * inner.num_envs
    batch_size = next(part for part in range(512, 0, -1) if size % part == 0)
    return {
        **settings,
        "n_steps": n_steps,
        "batch_size": batch_size,
        "n_epochs": 4,
        "normalize_advantage": True,
    }
