"""A fake language model in numpy, and conformance checks for tasks and environments.

``check_task`` and ``check_env`` raise AssertionError with the broken requirement. Run them on your own task::

    from cola_envs.testing import FakeBackbone, check_env, check_task

    check_task(MyTask)
    check_env("CoLA-Text-v0", task=MyTask, model=FakeBackbone())
"""

from cola_envs.testing.checks import check_env, check_task
from cola_envs.testing.fake import ByteTokenizer, FakeBackbone, FakeSession

__all__ = ["ByteTokenizer", "FakeBackbone", "FakeSession", "check_env", "check_task"]
