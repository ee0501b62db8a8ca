"""One keyword for the environment's arguments everywhere, and errors that name the right place for each."""

import dataclasses
import io
import warnings

import pytest

from cola_agents import GRPO, PPO, SB3VecEnv
from cola_agents.cli import main
from cola_agents.evaluation.run import evaluate
from cola_agents.rl.generate import generate
from cola_agents.search import MCTS

TASK = "CoLA-Arithmetic-v0"


class Cat:
    """A task of one's own: a cat is to be named."""

    stop = ("\n",)

    def reset(self, rng):
        return "Story:"

    def step(self, text):
        from cola_envs import Turn

        return Turn(reward=float("cat" in text), done=True)


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
