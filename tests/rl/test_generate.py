"""Recorded episodes: complete, the same again, gone on with where they break off."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.look.filling import Wanted
from cola_agents.evaluation.look.sources import look
from cola_agents.evaluation.run import evaluate
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.generate import generate, policy_name, read
from cola_agents.rl.recording import Recording
from cola_agents.search.q import QFunction, train_q
from cola_agents.train.options import QConfig
from cola_envs import jsonl
from cola_envs.task import Turn
from tests.common.test_files import hold, status_of

TASK = "CoLA-Arithmetic-v0"


def test_each_problem_is_answered_n_times_and_the_figures_are_those_of_the_file(tmp_path) -> None:
    figures = generate(TASK, tmp_path / "a.jsonl", problems=6, n=4)
    recorded = read(tmp_path / "a.jsonl")
    assert figures["episodes"] == len(recorded.episodes) == 24
    seeds = [episode["problem_seed"] for episode in recorded.episodes]
    assert seeds == [problem for problem in range(6) for _ in range(4)]
    assert len({episode["seed"] for episode in recorded.episodes}) == 24
    assert len({tuple(episode["actions"]) for episode in recorded.episodes}) > 6
    won = sum(episode["info"]["success"] for episode in recorded.episodes)
    assert figures["success"] == pytest.approx(won / 24, abs=1e-4)
    assert recorded.about["task"] == TASK
    assert len(recorded.about["fingerprint"]) == 64


def test_read_back_they_are_the_rollout_that_was_collected(tmp_path) -> None:
    generate(TASK, tmp_path / "a.jsonl.gz", problems=3, n=2, num_envs=6)
    recorded = read(tmp_path / "a.jsonl.gz")
    backbone = make_backbone(level="latent")
    again = recorded.rollout(backbone, batch_size=4)
    episodes = gym.make_vec(TASK, num_envs=6, model=backbone).unwrapped.episodes
    rollout = collect(
        episodes,
        InitialPolicy(),
        seeds=again.seeds.tolist(),
        problem_seeds=again.problem_seeds.tolist(),
    )
    for name in ("ids", "lengths", "mask", "actions", "rewards", "terminated"):
        assert torch.equal(getattr(again, name), getattr(rollout, name)), name
    torch.testing.assert_close(again.hidden, rollout.hidden, atol=1e-4, rtol=1e-4)
    q = QFunction.over(backbone)
    assert train_q(q, again, QConfig(steps=2, batch_size=4))[-1]["loss"] >= 0


def test_a_file_that_breaks_off_is_gone_on_with_and_ends_the_same(tmp_path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    generate(TASK, whole, problems=5, n=2, num_envs=4)
    lines = whole.read_text().splitlines(keepends=True)
    broken.write_text("".join(lines[:6]) + lines[6][:40])  # in the middle of the third problem
    generate(TASK, broken, problems=5, n=2, num_envs=4)
    assert broken.read_text().splitlines()[1:] == whole.read_text().splitlines()[1:]


def test_files_made_otherwise_are_neither_mixed_nor_overwritten(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    generate(TASK, path, problems=1, n=2)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="temperature is"):
        generate(TASK, path, problems=2, n=2, temperature=0.5)
    assert path.read_bytes() == before
    (tmp_path / "other.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="holds no episodes"):
        read(tmp_path / "other.jsonl")
    recorded = read(path)
    with pytest.raises(ValueError, match="fingerprint"):
        recorded.rollout(make_backbone(level="token"))


@pytest.fixture(scope="module")
def tiny_task():
    """Arguments of a task whose episodes are short and that takes problems of one's own."""
    return "CoLA-GSM8K-v0", {"max_tokens": 2, "problems": [{"question": "1 + 1 is?", "answer": "2"}]}


@pytest.mark.parametrize("more", [{"top_k": 1}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5}])
def test_a_file_with_a_setting_more_or_less_is_not_continued(more, tiny_task, tmp_path):
    task, settings = tiny_task
    for name, first, second in (("more", {}, more), ("less", more, {})):
        path = tmp_path / f"{name}.jsonl"
        generate(task, path, problems=1, n=1, env_kwargs=settings, **first)
        before = path.read_bytes()
        with pytest.raises(
            ValueError, match=rf"made otherwise \({'.*; '.join(f'{name} is' for name in more)} .* here\)"
        ):
            generate(task, path, problems=2, n=1, env_kwargs=settings, **second)
        assert path.read_bytes() == before
        assert generate(task, path, problems=2, n=1, env_kwargs=settings, **first)["episodes"] == 2


@pytest.mark.filterwarnings("ignore::cola_envs.tasks.math500.SubstituteWarning")
def test_a_file_of_problems_of_ones_own_is_not_continued_without_them(tmp_path):
    path, problems = tmp_path / "a.jsonl", [{"problem": "1 + 1 is?", "answer": "2"}]
    generate("CoLA-Math500-v0", path, problems=1, n=1, env_kwargs={"max_tokens": 2, "problems": problems})
    with pytest.raises(ValueError, match=r"env_kwargs_digests.* is .* there and .* here"):
        generate("CoLA-Math500-v0", path, problems=2, n=1, env_kwargs={"max_tokens": 2})


@pytest.mark.parametrize("by_agent", [False, True])
def test_a_file_of_other_settings_is_refused_before_a_model_is_loaded(
    by_agent, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "a.jsonl"
    argv = ["generate", "--task", TASK, "--out", str(path), "--env", "max_tokens=2"]
    if by_agent:
        GRPO(TASK, num_envs=8, env_kwargs={"max_tokens": 2}).save(tmp_path / "agent")
        argv += ["--agent", str(tmp_path / "agent")]
    argv += ["--temperature", "0.7", "--problems"]
    assert main([*argv, "1", "--n", "3"]) == 0
    before = path.read_bytes()
    for loads in ("cola_agents.rl.generate.make_rows", "cola_agents.evaluation.run.AgentFolder.load"):
        monkeypatch.setattr(loads, lambda *args, **kwargs: pytest.fail("a model is loaded"))
    for other, what in (
        (["--n", "4"], "n is 3 there and 4 here"),
        (["--n", "3", "--seed", "1"], "seed is 0 there and 1 here"),
        (["--n", "3", "--temperature", "0.5"], "temperature is 0.7 there and 0.5 here"),
        (["--n", "3", "--env", "level=2"], "env_kwargs['level'] is None there and 2 here"),
    ):
        assert main([*argv, "2", *other]) == 2
        assert f"made otherwise ({what})" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"made otherwise \(top_k is None there and 3 here\)"):
        generate(TASK, path, problems=2, n=3, temperature=0.7, top_k=3, env_kwargs={"max_tokens": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a", "folder.jsonl"])
def test_a_name_that_no_reader_takes_for_episodes_is_refused(name, tmp_path, monkeypatch, capsys):
    """As text, every line would be a document of digits and brackets."""
    (tmp_path / "folder.jsonl").mkdir()
    monkeypatch.setattr("cola_agents.rl.generate.make_rows", lambda *args, **kwargs: pytest.fail("loaded"))
    argv = ["generate", "--task", TASK, "--problems", "1", "--n", "1", "--out", str(tmp_path / name)]
    assert main(argv) == 2
    assert ("is no file" if "folder" in name else "named *.jsonl or *.jsonl.gz") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.jsonl"]


class OwnTask:
    """A task that a recording names."""

    stop = ()

    def reset(self, rng):
        return "Say a number:"

    def step(self, text):
        return Turn(reward=0.0, info={"success": False})


def test_a_recording_of_a_task_of_ones_own_names_it_and_another_task_does_not_continue_it(tmp_path):
    class Other(OwnTask):
        pass

    path, sizes = tmp_path / "a.jsonl", {"problems": 1, "n": 1}
    generate("CoLA-Text-v0", path, env_kwargs={"task": OwnTask, "max_tokens": 2}, **sizes)
    about = json.loads(path.read_text().splitlines()[0])
    assert about["own_task"] == f"{__name__}:OwnTask"
    with pytest.raises(ValueError, match=r"made otherwise \(own_task is .* there and .* here\)"):
        generate("CoLA-Text-v0", path, env_kwargs={"task": Other, "max_tokens": 2}, **sizes)
    with pytest.raises(ValueError, match=r"recorded with the task .*:OwnTask.*give it as --task"):
        look(path, Wanted())
    # A file of an earlier version does not say it, and goes on.
    del about["own_task"]
    path.write_text(json.dumps(about) + "\n" + "".join(path.read_text().splitlines(keepends=True)[1:]))
    generate("CoLA-Text-v0", path, env_kwargs={"task": OwnTask, "max_tokens": 2}, problems=2, n=1)
    report = evaluate("CoLA-Text-v0", episodes=1, env_kwargs={"task": OwnTask, "max_tokens": 2})
    assert report["task"] == f"{__name__}:OwnTask"


@pytest.mark.parametrize("key", ["kind_of_day", "policy", "num_actions"])
def test_any_field_of_the_first_line_that_one_side_lacks_is_a_difference(key, tmp_path):
    about = {
        "kind": "cola-episodes",
        "actions": "latent",
        "fingerprint": "f",
        "policy": "p",
        "num_actions": 4,
    }
    with_key, without = {**about, key: "x"}, {name: about[name] for name in about if name != key}
    for name, first, second in (("a", with_key, without), ("b", without, with_key)):
        path = tmp_path / f"{name}.jsonl"
        Recording(path, first, 1).append([])
        assert Recording(path, first, 1).done == 0
        with pytest.raises(ValueError, match=rf"{key}\b.* is .* there and .* here"):
            Recording(path, second, 1)


def test_a_file_of_an_earlier_version_which_names_no_prompt_format_is_continued(tmp_path):
    about = {"kind": "cola-episodes", "actions": "latent", "fingerprint": "f"}
    Recording(tmp_path / "a.jsonl", about, 1).append([])
    assert Recording(tmp_path / "a.jsonl", {**about, "prompt_format": "plain"}, 1).done == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seed": -3}, "seed must be at least 0, got -3"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"temperature": -1}, "temperature must be a finite number, 0 or above, got -1"),
        ({"temperature": 1e-9}, "temperature=1e-09 is below"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 2.0}, "top_p=2"),
        ({"problems": 0}, "problems must be at least 1"),
        ({"n": 1.5}, "n must be an integer"),
        ({"policy": 3}, "policy must be None, a policy or a function"),
    ],
)
def test_an_argument_that_is_refused_leaves_no_file(bad, message, tiny_task, tmp_path):
    task, settings = tiny_task
    path = tmp_path / "a.jsonl"
    with pytest.raises((TypeError, ValueError), match=message):
        generate(task, path, **{"problems": 1, "n": 1, "env_kwargs": settings, **bad})
    assert not path.exists()


def test_the_command_writes_the_file_and_prints_the_figures(tmp_path, capsys) -> None:
    out = tmp_path / "a.jsonl"
    argv = ["generate", "--task", TASK, "--out", str(out), "--problems", "2", "--n", "2", "--env", "level=2"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["episodes"] == 4
    assert read(out).about["env_kwargs"] == {"level": 2}
    assert main([*argv[:-1], "level=3"]) == 2
    assert "made otherwise" in capsys.readouterr().err


def test_a_file_that_broke_off_before_its_first_problem_is_gone_on_with(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    generate(TASK, path, problems=1, n=2)
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert generate(TASK, path, problems=1, n=2)["episodes"] == 2
    assert len(read(path).episodes) == 2


def stops(session, rows):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"policy": stops}, KeyboardInterrupt, None),
        ({"policy": 5}, TypeError, None),
        ({"seed": -3}, ValueError, "seed must be at least 0, got -3"),
        ({"seed": 1.5}, ValueError, "seed must be an integer, got 1.5"),
        ({"seed": None}, ValueError, "seed must be an integer, got None"),
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"temperature": -1}, ValueError, "temperature must be a finite number, 0 or above, got -1"),
        ({"temperature": 1e-9}, ValueError, "0 is greedy"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p=1.5 in \(0, 1\]"),
    ],
)
def test_a_call_that_ends_before_its_first_problem_leaves_no_file(given, error, message, tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(error, match=message):
        generate(TASK, path, **{"problems": 1, "n": 2, **given})
    assert list(tmp_path.iterdir()) == []
    assert generate(TASK, path, problems=1, n=2)["episodes"] == 2


def test_numbers_of_numpy_are_taken_and_recorded_as_pythons(tmp_path) -> None:
    path, one = tmp_path / "a.jsonl", np.int64(1)
    generate(TASK, path, problems=one, n=2 * one, seed=one, num_envs=4 * one, temperature=np.float32(0.5))
    assert generate(TASK, path, problems=2, n=2, seed=1, temperature=0.5)["episodes"] == 4
    other = tmp_path / "b.jsonl"
    generate(TASK, other, problems=1, n=2, env_kwargs={"level": one})
    with pytest.raises(ValueError, match=r"env_kwargs_digests.* is .* there and .* here"):
        generate(TASK, other, problems=2, n=2, env_kwargs={"level": 2 * one})


def test_the_same_call_goes_on_and_another_policy_does_not(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    generate(TASK, path, problems=1, n=2, env_kwargs={"kinds": ("sum",)})
    assert generate(TASK, path, problems=2, n=2, env_kwargs={"kinds": ("sum",)})["episodes"] == 4
    actor = GRPO(TASK).actor
    with pytest.raises(ValueError, match="policy is"):
        generate(TASK, path, problems=3, n=2, env_kwargs={"kinds": ("sum",)}, policy=actor)


# ---------------------------------------------------------------- killed, full, damaged


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A recording of four problems, two episodes each, two problems a round: plain and compressed."""
    folder = tmp_path_factory.mktemp("recordings")
    for suffix in (".jsonl", ".jsonl.gz"):
        generate(TASK, folder / f"whole{suffix}", problems=4, n=2, num_envs=4)
    return folder


def played(path) -> list[tuple]:
    """What was played; log-probabilities may differ in the last digit with the rows beside."""
    return [(e["seed"], e["problem_seed"], e["ids"], e["rewards"]) for e in read(path).episodes]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8, 0.99])
def test_wherever_a_file_breaks_off_it_is_gone_on_with_by_cutting_and_appending(
    suffix, share, recordings, tmp_path, monkeypatch
):
    """The file never becomes smaller than its whole problems, and those keep their bytes."""
    whole, path = recordings / f"whole{suffix}", tmp_path / f"a{suffix}"
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    cuts = []
    monkeypatch.setattr(jsonl, "cut", lambda path, end, cut=jsonl.cut: (cuts.append(end), cut(path, end)))
    assert generate(TASK, path, problems=4, n=2, num_envs=4)["episodes"] == 8
    assert played(path) == played(whole)
    for end in cuts:
        assert path.read_bytes()[:end] == content[:end]
        assert end in [line.end for line in jsonl.lines(whole) if line.number % 2]


def test_whole_problems_of_a_compressed_part_that_breaks_off_are_kept(recordings, tmp_path):
    """As an earlier version wrote them: a file of one part."""
    path = tmp_path / "old.jsonl.gz"
    packed = gzip.compress((recordings / "whole.jsonl").read_bytes())
    path.write_bytes(packed[:-20])
    recording = Recording(path, read(recordings / "whole.jsonl").about | {"policy": "the model's own"}, 2)
    assert recording.done == 3
    assert generate(TASK, path, problems=4, n=2, num_envs=4)["episodes"] == 8
    assert played(path) == played(recordings / "whole.jsonl")


DAMAGED = {
    "zeros": b"\0" * 80,
    "null": b"null",
    "no JSON": b"{'ids': [1]}",
    "no UTF-8": b'{"ids": "\xff"}',
    "cut": b'{"ids": [3, 4',
    "no episode": b'{"ids": [1]}',
    "a list": b"[]",
    "a first line": b'{"kind": "cola-episodes"}',
    "a nest": b"[" * 100_000,
}


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_destroyed(raw, recordings, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = (recordings / "whole.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], raw + b"\n", *lines[4:7]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4"):
        generate(TASK, path, problems=6, n=2)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"a\.jsonl, line 4"):
        read(path)


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_last_line_is_played_again(raw, end, recordings, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = (recordings / "whole.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + raw + end)
    generate(TASK, path, problems=4, n=2, num_envs=4)
    assert path.read_bytes() == b"".join(lines)


def test_a_missing_line_is_noticed(recordings, tmp_path):
    path = tmp_path / "a.jsonl"
    lines = (recordings / "whole.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[4:]]))
    with pytest.raises(
        ValueError, match=r"a\.jsonl, line 5: an episode of problem 2 among the 2 of problem 1"
    ):
        generate(TASK, path, problems=6, n=2)
    assert path.read_bytes() == b"".join([*lines[:3], *lines[4:]])


@pytest.mark.parametrize("content", [b"\0" * 99, b"a", b'{"kind": "cola-epis', b"[]\n", b"null\n{}\n"])
def test_a_file_without_a_whole_first_line_is_left_alone(content, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl"):
        generate(TASK, path, problems=1, n=2)
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_disk_that_is_full_loses_nothing(suffix, recordings, tmp_path):
    path = tmp_path / f"a{suffix}"
    shutil.copy(recordings / f"whole{suffix}", path)
    before = path.read_bytes()
    limited = f"""
import resource, signal, sys
from cola_agents.rl.generate import generate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 50}, {len(before) + 50}))
generate({TASK!r}, sys.argv[1], problems=6, n=2, num_envs=4)
"""
    done = subprocess.run([sys.executable, "-c", limited, str(path)], capture_output=True, text=True)
    assert "File too large; the file's old content is unchanged" in done.stderr
    assert path.read_bytes()[: len(before)] == before
    generate(TASK, path, problems=6, n=2, num_envs=4)
    assert path.read_bytes()[: len(before)] == before
    assert len(played(path)) == 12


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_second_writer_of_a_recording_is_refused_and_changes_nothing(suffix, recordings, tmp_path, capsys):
    path = tmp_path / f"a{suffix}"
    shutil.copy(recordings / f"whole{suffix}", path)
    before = path.read_bytes()
    child = hold(path, "file")
    try:
        argv = ["generate", "--task", TASK, "--out", str(path), "--problems", "6", "--n", "2"]
        assert main(argv) == 2
        assert f"is being written by process {child} on" in capsys.readouterr().err
        assert path.read_bytes() == before
    finally:
        os.kill(child, signal.SIGKILL)
        status_of(child)
    assert generate(TASK, path, problems=4, n=2)["episodes"] == 8, "the lock died with its process"


def test_an_agents_answers_are_drawn_as_the_agent_draws_them(tmp_path):
    agent = GRPO(TASK, num_envs=4, prompts=2, group_size=2, temperature=0.7, top_k=8)
    agent.save(tmp_path / "agent")
    made = ["generate", "--agent", str(tmp_path / "agent"), "--problems", "2", "--n", "2"]
    assert main([*made, "--out", str(tmp_path / "own.jsonl")]) == 0
    own = read(tmp_path / "own.jsonl")
    assert [own.about[name] for name in ("temperature", "top_k", "top_p")] == [0.7, 8, 1.0]
    assert main([*made, "--temperature", "0.5", "--out", str(tmp_path / "other.jsonl")]) == 0
    other = read(tmp_path / "other.jsonl").about
    assert (other["temperature"], other["top_k"]) == (0.5, 8)
    rollout = collect(
        agent.episodes,
        agent.actor,
        seeds=[episode["seed"] for episode in own.episodes],
        problem_seeds=[episode["problem_seed"] for episode in own.episodes],
        temperature=0.7,
        top_k=8,
    )
    assert [episode["info"]["text"] for episode in own.episodes] == [info["text"] for info in rollout.infos]


def test_a_file_of_other_settings_that_are_no_plain_values_is_not_continued(tmp_path):
    made = {"problems": 1, "n": 1, "num_envs": 1}
    problems = [{"question": "1 + 1 is?", "answer": "2"}]
    task, path = "CoLA-GSM8K-v0", tmp_path / "a.jsonl"
    generate(task, path, env_kwargs={"problems": problems, "max_tokens": 4}, **made)
    generate(task, path, env_kwargs={"problems": problems, "max_tokens": 4}, **made)
    other = [{"question": "1 + 2 is?", "answer": "3"}]
    with pytest.raises(ValueError, match="env_kwargs_digests"):
        generate(task, path, env_kwargs={"problems": other, "max_tokens": 4}, **made)


def test_a_policy_with_a_scalar_weight_has_a_name():
    module = torch.nn.BatchNorm1d(2)
    assert policy_name(module).startswith("BatchNorm1d ")
