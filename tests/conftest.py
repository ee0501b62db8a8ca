"""Fixtures that every test may use: tiny models, built once. They are shared: copy what you change."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

from transformers import LlamaForCausalLM

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.modeling import CoLAForCausalLM
from tests import tiny

torch.set_num_threads(1)
# A shell that runs the tests in the background has them ignore Ctrl-C, which some are about.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer with fewer entries than the tiny models have embeddings."""
    return tiny.make_tokenizer()


@pytest.fixture(scope="session")
def tiny_base() -> LlamaForCausalLM:
    return tiny.make_base()


@pytest.fixture(scope="session")
def tiny_cola() -> CoLAForCausalLM:
    """A latent-action model with the ``"state"`` readout."""
    return tiny.make_cola("state")


@pytest.fixture(scope="session")
def tiny_cola_difference() -> CoLAForCausalLM:
    """The same weights under the official ``"difference"`` readout."""
    return tiny.make_cola("difference")


@pytest.fixture(scope="session", params=["state", "difference"])
def cola(request: pytest.FixtureRequest) -> CoLAForCausalLM:
    """Both readouts, one after the other."""
    return request.getfixturevalue("tiny_cola" if request.param == "state" else "tiny_cola_difference")


@pytest.fixture(scope="session")
def latent_backbone(tiny_cola: CoLAForCausalLM, tiny_tokenizer: Any) -> LatentBackbone:
    return LatentBackbone(tiny_cola, tiny_tokenizer)


@pytest.fixture(scope="session")
def span_backbone(tiny_tokenizer: Any) -> LatentBackbone:
    """Codes that last three tokens."""
    return LatentBackbone(tiny.make_spans(), tiny_tokenizer)


@pytest.fixture(scope="session")
def token_backbone(tiny_base: LlamaForCausalLM, tiny_tokenizer: Any) -> TokenBackbone:
    return TokenBackbone(tiny_base, tiny_tokenizer)
