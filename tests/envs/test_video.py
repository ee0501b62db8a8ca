"""Recorders and windows of Gymnasium and Stable-Baselines3 take the frames of ``render_mode="rgb_array"``.

They need moviepy and pygame, which this project does not depend on: without them these tests are skipped.
"""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import HumanRendering, RecordVideo
from stable_baselines3.common.vec_env import VecVideoRecorder

from cola_agents import SB3VecEnv

TASK = "CoLA-Thinking-v0"
MAX_TOKENS = 6


def frames(path) -> np.ndarray:
    """The frames of a video file, [N, height, width, 3]."""
    from moviepy import VideoFileClip

    with VideoFileClip(str(path)) as clip:
        return np.stack(list(clip.iter_frames()))


def coloured(frame) -> int:
    """Pixels that are not grey: the text of an agent has a colour for each action."""
    return int((np.ptp(frame.astype(int), axis=-1) > 30).sum())


def test_record_video_writes_an_episode_that_grows(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.make(TASK, render_mode="rgb_array", max_tokens=MAX_TOKENS)
    with RecordVideo(env, str(tmp_path), episode_trigger=lambda episode: True, disable_logger=True) as env:
        env.reset(seed=0)
        ended, steps = False, 0
        while not ended:
            _, _, terminated, truncated, _ = env.step(7)
            ended, steps = terminated or truncated, steps + 1
    (path,) = tmp_path.glob("*.mp4")
    shown = frames(path)
    assert shown.shape[1:] == (480, 640, 3)
    assert abs(len(shown) - (steps + 1)) <= 1  # the codec may round the last frame
    assert coloured(shown[0]) == 0 < coloured(shown[-1])


def test_human_rendering_shows_the_frames_in_a_window(monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = HumanRendering(gym.make(TASK, render_mode="rgb_array", max_tokens=MAX_TOKENS))
    try:
        env.reset(seed=0)
        for _ in range(3):
            env.step(7)
        shown = np.transpose(pygame.surfarray.array3d(env.window), (1, 0, 2))
        assert (shown == env.env.render()).all()
        assert coloured(shown) > 0
    finally:
        env.close()


def test_the_video_recorder_of_stable_baselines_records_all_rows(tmp_path):
    pytest.importorskip("moviepy")
    envs = SB3VecEnv(TASK, num_envs=2, env_kwargs={"render_mode": "rgb_array", "max_tokens": MAX_TOKENS})
    recorder = VecVideoRecorder(
        envs, str(tmp_path), record_video_trigger=lambda step: step == 0, video_length=5
    )
    try:
        recorder.reset()
        for _ in range(7):
            recorder.step(np.array([7, 7]))
    finally:
        recorder.close()
    (path,) = tmp_path.glob("*.mp4")
    shown = frames(path)
    assert len(shown) >= 5
    halves = np.array_split(shown[-1], 2, axis=int(np.argmax(shown.shape[1:3])))
    assert all(coloured(half) > 0 for half in halves)
