"""One keyword for the environment's arguments everywhere, and errors that name the right place for each."""

import dataclasses
import inspect
import io
import warnings
from typing import Any

import pytest

from cola_agents import GRPO, PPO, RLOO, SB3VecEnv, collect
from cola_agents.cli import main
from cola_agents.commands.tasks import load_playing
from cola_agents.common.arguments import AGENT_ARGUMENTS
from cola_agents.common.sealed import sealed, unsealed
from cola_agents.evaluation.run import evaluate
from cola_agents.rl.agent import Agent
from cola_agents.rl.generate import generate
from cola_agents.search import MCTS
from cola_envs import register_task

TASK = "CoLA-Arithmetic-v0"


class Cat:
    """A task of one's own: a cat is to be named."""

    stop = ("\n",)

    def reset(self, rng):
        return "Story:"

    def step(self, text):
        from cola_envs import Turn

        return Turn(reward=float("cat" in text), done=True)


class Seeded(Cat):
    """A task with an argument that agents have too."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def reset(self, rng):
        return f"Story {self.seed}:"


@pytest.mark.parametrize(
    "take",
    [
        lambda **given: SB3VecEnv(TASK, num_envs=1, **given),
        lambda **given: MCTS(TASK, num_trees=1, **given),
        lambda **given: evaluate(TASK, episodes=1, **given),
        lambda **given: GRPO(TASK, num_envs=1, env_kwargs={"max_tokens": 3}).evaluate(1, **given),
        lambda **given: GRPO(TASK, num_envs=1).vec_env(1, **given),
    ],
)
def test_env_kwargs_are_taken_everywhere_and_keywords_of_old_are_deprecated(take):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        take(env_kwargs={"level": 2, "max_tokens": 3})
    with pytest.warns(DeprecationWarning, match=r"env_kwargs=\{'level': 2\}"):
        take(level=2, env_kwargs={"max_tokens": 3})
    with pytest.raises(TypeError, match="'level' twice"):
        take(level=2, env_kwargs={"level": 2})


def test_a_file_of_problems_and_their_number_do_not_collide(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
    path, more = str(tmp_path / "p.jsonl"), {"split": "train", "max_tokens": 2}
    told = generate(
        "CoLA-GSM8K-v0", tmp_path / "a.jsonl", problems=1, n=2, env_kwargs={"problems": path, **more}
    )
    assert told["episodes"] == 2
    argv = ["generate", "--task", "CoLA-GSM8K-v0", "--problems", "1", "--n", "2", "--env", f"problems={path}"]
    argv += ["--env", "max_tokens=2", "--split", "train"]
    assert main([*argv, "--out", str(tmp_path / "b.jsonl")]) == 0


#: In ``env_kwargs`` each is in the wrong place -> the error of an agent.
MISPLACED = {
    "model": ("x", r"'model', which is an argument of GRPO itself: .*GRPO\(\.\.\., model='x'\).*--model x"),
    "tokenizer": ("x", r"GRPO\(\.\.\., tokenizer='x'\) \(on the command line --tokenizer x\)"),
    "device": ("cpu", "--device cpu"),
    "dtype": ("float32", "--dtype float32"),
    "num_envs": (4, r"GRPO\(\.\.\., num_envs=4\) \(on the command line --num-envs 4\)"),
    "seed": (1, "--seed 1"),
    "env_id": (TASK, "'env_id', which is an argument of GRPO itself"),
    "env_kwargs": ({}, "'env_kwargs', which is an argument of GRPO itself"),
    "verbose": (1, r"GRPO\(\.\.\., verbose=1\)$"),
    "tensorboard_log": ("x", r"GRPO\(\.\.\., tensorboard_log='x'\)$"),
    "lr": (0.1, "'lr', which is an option of GRPO: give it as lr=0.1"),
    "vectorization_mode": ("sync", r"no argument of an environment but of gym\.make_vec"),
    "vector_kwargs": ({}, r"no argument of an environment but of gym\.make_vec"),
    "wrappers": ([], r"no argument of an environment but of gym\.make_vec"),
    "num_rows": (4, "unknown keyword argument 'num_rows'"),
}


@pytest.fixture(scope="module")
def agent() -> GRPO:
    return GRPO(TASK, num_envs=2, env_kwargs={"max_tokens": 2})


@pytest.mark.parametrize("name", MISPLACED)
def test_an_argument_of_the_agent_is_none_of_its_environment(name, agent):
    value, message = MISPLACED[name]
    for take in (
        lambda given: GRPO(TASK, num_envs=2, env_kwargs=given),
        lambda given: agent.vec_env(2, env_kwargs=given),
        lambda given: agent.evaluate(2, env_kwargs=given),
        lambda given: agent.evaluate(2, env_id="CoLA-Thinking-v0", env_kwargs=given),
    ):
        with pytest.raises(TypeError, match=message):
            take({name: value})


def test_the_arguments_of_an_agent_are_those_of_its_class():
    parameters = inspect.signature(Agent.__init__).parameters
    assert {"self", "options", *AGENT_ARGUMENTS} == set(parameters)


def test_a_task_may_have_an_argument_of_an_agents_name():
    register_task("Seeded", f"{__name__}:Seeded", 4)
    tasks: Any = GRPO("CoLA-Seeded-v0", num_envs=1, env_kwargs={"seed": 5}).episodes.tasks
    assert [task.seed for task in tasks.tasks] == [5]


def test_whole_episodes_are_played_in_rows_that_step_together(tmp_path):
    for name, value in {"vectorization_mode": "sync", "num_envs": 2}.items():
        with pytest.raises(TypeError, match=rf"env_kwargs has '{name}', .* leave it out"):
            generate(TASK, tmp_path / "a.jsonl", problems=1, env_kwargs={name: value})


def test_an_agent_is_evaluated_on_environments_of_its_own_level(agent):
    for method in (agent.evaluate, agent.vec_env):
        with pytest.raises(ValueError, match="CartPole-v1 is not one of the CoLA environments"):
            method(2, env_id="CartPole-v1")
        with pytest.raises(ValueError, match="acts at token level and this agent, of CoLA-Arithmetic-v0, at"):
            method(2, env_id="CoLA-Arithmetic-Token-v0")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": None}, "seed must be an integer, got None"),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": 2.0}, "num_envs must be an integer, got 2.0"),
        ({"num_envs": True}, "num_envs must be an integer, got True"),
    ],
)
def test_seeds_and_counts_are_checked_before_a_model_is_loaded(given, message):
    with pytest.raises(ValueError, match=message):
        GRPO(TASK, model="/no/such/model", **given)


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda agent: agent.evaluate(0), "num_episodes must be at least 1, got 0"),
        (lambda agent: agent.evaluate(1.5), "num_episodes must be an integer, got 1.5"),
        (lambda agent: agent.evaluate(1, seed=-1), "seed must be at least 0, got -1"),
        (lambda agent: agent.evaluate(1, seed=None), "seed must be an integer, got None"),
        (lambda agent: agent.vec_env(0), "num_envs must be at least 1, got 0"),
        (lambda agent: agent.vec_env(-2), "num_envs must be at least 1, got -2"),
        (
            lambda agent: collect(agent.episodes, agent.actor, seeds=[1.5]),
            "seeds must be integers >= 0, got 1.5",
        ),
        (
            lambda agent: collect(agent.episodes, agent.actor, seeds=[1], problem_seeds=[-1]),
            "problem_seeds must",
        ),
        (lambda agent: agent.learn(float("nan")), "total_timesteps must be an integer, got nan"),
        (lambda agent: agent.learn(None), "total_timesteps must be an integer, got None"),
        (lambda agent: agent.learn(4, log_interval=0.5), "log_interval must be an integer, got 0.5"),
        (lambda agent: agent.learn(4, save_every=0, save_to="x"), "save_every must be at least 1, got 0"),
    ],
)
def test_seeds_and_counts_of_methods_are_named(take, message, agent):
    with pytest.raises(ValueError, match=message):
        take(agent)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PPO(TASK, level=2),
            r"argument of the environment.*env_kwargs=\{'level': 2\}.*--env level=2",
        ),
        (lambda: PPO(TASK, max_tokens=2), "argument of the environment"),
        (lambda: PPO(TASK, learning_rate=1e-3), "Did you mean 'lr'"),
        (lambda: GRPO(TASK, n_epochs=2), "Did you mean 'epochs'"),
        (lambda: GRPO(TASK, grop_size=2), "Did you mean 'group_size'"),
        (lambda: GRPO(TASK, n_envs=2), "Did you mean 'num_envs'"),
        (lambda: GRPO(TASK, modle="x"), "Did you mean 'model'"),
        (lambda: RLOO(TASK, n_epochs=2), "unknown option 'n_epochs': RLOO takes .*group_size$"),
        (lambda: RLOO(TASK, clip_range=0.1), "unknown option 'clip_range': RLOO takes .*group_size$"),
        (lambda: GRPO(TASK, env_kwargs={"lr": 1.0}), "an option of GRPO: give it as lr=1.0.*--set lr=1.0"),
        (lambda: PPO(Cat), r'PPO\("CoLA-Text-v0", env_kwargs=\{"task": MyTask\}\)'),
    ],
)
def test_an_error_names_the_right_place_of_an_argument(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_task_is_named_by_module_and_class_wherever_a_command_names_one(tmp_path, capsys, monkeypatch):
    (tmp_path / "dog_task.py").write_text(
        "from cola_envs import Turn\n\n\nclass Dog:\n    stop = ('\\n',)\n\n    def reset(self, rng):\n"
        "        return 'Story:'\n\n    def step(self, text):\n        return Turn(reward=1.0, done=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    small = ["--env", "max_tokens=3", "--num-envs", "4"]
    task = ["--task", "dog_task:Dog"]
    run = [
        "train",
        *task,
        "--algo",
        "GRPO",
        "--timesteps",
        "1e1",
        "--out",
        "run",
        "--episodes",
        "2",
        "--quiet",
    ]
    assert main([*run, *small, "--set", "prompts=2", "--set", "group_size=2"]) == 0
    assert main(["resume", "run", "--quiet", *task]) == 0
    assert main(["eval", *task, "--episodes", "2", *small]) == 0
    assert main(["eval", *task, "--agent", "run", "--episodes", "2"]) == 0
    assert main(["eval", "--agent", "run", "--episodes", "2"]) == 2
    assert "module:Class" in capsys.readouterr().err
    assert main(["generate", *task, "--problems", "1", "--n", "2", "--out", "e.jsonl", *small]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n"))
    assert main(["play", "dog_task:Dog", "--agent", "run"]) == 0


def test_what_a_folder_could_not_hold_is_given_by_the_command_in_whole_or_not_at_all(tmp_path, monkeypatch):
    name = f"{__name__}:Cat"
    kwargs = {"task": Cat, "max_tokens": 2, "system": {1: 2}}
    saved = GRPO("CoLA-Text-v0", num_envs=1, env_kwargs={**kwargs, "system": None})
    saved.env_kwargs = kwargs
    with pytest.warns(UserWarning, match="system cannot be saved"):
        saved.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"trained with system too, which .* give it as --env system="):
        load_playing(tmp_path / "run", {"task": name})
    with pytest.raises(ValueError, match=r"trained with system, task, which .*--env system=\.\.\. --task"):
        load_playing(tmp_path / "run", {"level": 2})
    loaded = load_playing(tmp_path / "run", {"task": name, "system": None, "max_tokens": 9})
    assert loaded.env_kwargs == {"task": name, "system": None, "max_tokens": 2}


def test_a_task_of_the_command_is_not_given_to_an_agent_of_another(tmp_path):
    GRPO(TASK, num_envs=1, env_kwargs={"level": 2}).save(tmp_path / "run")
    assert load_playing(tmp_path / "run", {"task": f"{__name__}:Cat"}).env_kwargs == {"level": 2}
    words = ["--task", f"{__name__}:Cat", "--episodes", "1", "--env", "max_tokens=2"]
    assert main(["eval", *words, "--agent", str(tmp_path / "run")]) == 0


def test_no_file_chooses_a_builder_though_the_command_gives_the_task(tmp_path):
    GRPO("CoLA-Text-v0", num_envs=1, env_kwargs={"task": Cat}).save(tmp_path)
    description = unsealed(tmp_path / "agent.json")
    description["env_kwargs"]["builder"] = "os:system"
    (tmp_path / "agent.json").write_bytes(sealed(description))
    with pytest.raises(ValueError, match="trained with builder too, which could not be saved"):
        load_playing(tmp_path, {"task": f"{__name__}:Cat"})


def test_an_algorithm_is_named_by_module_and_class_wherever_a_command_names_an_agent(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "own_rl.py").write_text(
        "from cola_agents import GRPO\n\n\nclass Mine(GRPO):\n    pass\n\n\nNUMBER = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    small = ["--timesteps", "4", "--num-envs", "2", "--episodes", "2", "--env", "max_tokens=3", "--quiet"]
    small += ["--set", "prompts=1", "--set", "group_size=2"]
    train = ["train", "--task", TASK, "--out", "run", *small]
    assert main([*train, "--algo", "own_rl:NUMBER"]) == 2
    assert (
        "own_rl:NUMBER names 1: it must be a subclass of cola_agents.rl.agent.Agent"
        in capsys.readouterr().err
    )
    for wrong in ("own_rl:Nothing", "no_such_module:Mine"):
        assert main([*train, "--algorithm", wrong]) == 2
        assert f"--algo {wrong}: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

    own = ["--algo", "own_rl:Mine"]
    assert main([*train, *own]) == 0
    assert "`cola eval --algo own_rl:Mine --agent run`" in capsys.readouterr().out
    assert main(["resume", "run", "--quiet", *own]) == 0
    assert main(["eval", "--agent", "run", "--episodes", "2", "--json", *own]) == 0
    assert '"agent": "Mine"' in capsys.readouterr().out
    assert main(["generate", "--agent", "run", "--problems", "1", "--n", "2", "--out", "e.jsonl", *own]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n"))
    assert main(["play", "--agent", "run", *own]) == 0
    capsys.readouterr()
    assert main(["eval", "--agent", "run"]) == 2
    assert "an agent of the class Mine" in (error := capsys.readouterr().err)
    assert "--algo module:Mine" in error
    assert main(["eval", "--agent", "run", "--algo", "ppo"]) == 2
    assert "run holds a Mine" in capsys.readouterr().err


def test_help_after_an_algorithm_lists_its_options_with_types_defaults_and_meanings(capsys):
    for algo, cls in (("PPO", PPO), ("cola_agents.rl.grpo:GRPO", GRPO)):
        with pytest.raises(SystemExit, match="0"):
            main(["train", "--algo", algo, "--help"])
        lines = capsys.readouterr().out.splitlines()
        for field in dataclasses.fields(cls.options_class):
            assert f"  {field.name}: {field.type} = {field.default!r}" in lines
        clip = lines.index("  clip: float = 0.2")
        assert lines[clip + 1] == "      the ratio's clipping range."
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--algo", "nowhere:Class", "--help"])
    assert "No module named 'nowhere'" in capsys.readouterr().err


def test_an_agent_knows_its_task_and_old_flags_still_work(tmp_path, capsys):
    agent = GRPO(TASK, num_envs=2, env_kwargs={"max_tokens": 3, "level": 2})
    agent.save(tmp_path / "run")
    run = str(tmp_path / "run")
    assert main(["eval", "--agent", run, "--episodes", "2"]) == 0
    assert main(["generate", "--agent", run, "--problems", "1", "--n", "2", "--out", f"{run}.jsonl"]) == 0
    capsys.readouterr()
    with pytest.warns(DeprecationWarning, match="--set level=1 is --env level=1"):
        assert main(["eval", "--task", TASK, "--episodes", "1", "--set", "level=1"]) == 0
    assert "--set level=1 is --env level=1 now" in capsys.readouterr().err
