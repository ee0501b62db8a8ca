"""The fields of info that others read have one name and one type, in one place."""

from __future__ import annotations

import pytest

from cola_envs import fields
from tests.envs.tiny import make, write


def test_a_field_is_read_with_its_type_or_refused_by_name() -> None:
    assert fields.TEXT.of({"text": "a"}) == "a"
    with pytest.raises(TypeError, match=r"info\['num_tokens'\] must be a int, got '3'"):
        fields.NUM_TOKENS.of({"num_tokens": "3"})
    with pytest.raises(KeyError, match="success"):
        fields.SUCCESS.of({"text": "a"})


def test_an_episode_writes_its_own_fields_with_their_types() -> None:
    episodes = make()
    episodes.reset([0], [0])
    start = episodes.reset_infos([0])[0]
    assert isinstance(fields.PROMPT.of(start), str)
    info = write(episodes, "x.")[-1][4]
    for field in (fields.TOKEN, fields.ACTION, fields.TEXT, fields.SUCCESS, fields.NUM_TOKENS):
        assert type(info[field.name]) is field.kind
