"""The versions of transformers: the cache has two names, and a version that was not tested is refused."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from transformers import DynamicCache, GenerationMixin

from cola_agents.model.versions import TRANSFORMERS, cache_name, check_system, check_transformers

OLDEST = Path(__file__).parents[2] / ".ci" / "oldest.txt"
NAMES = ("cache", "past_key_values")
SETTINGS = {"max_new_tokens": 10, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def ids():
    return torch.randint(3, 60, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("installed", ["5.25.0", "5.25.0.dev0", "5.16.1", "4.57.6", "6.0"])
def test_a_version_that_was_not_tested_is_refused_with_the_range_and_the_command(installed):
    with pytest.raises(ImportError, match=rf"{re.escape(installed)} is installed.*from 5\.17.*pip install"):
        check_transformers(installed)


@pytest.mark.parametrize("installed", [None, "5.17.0", "5.23.0", "5.24.0", "5.24.7"])
def test_a_tested_version_is_taken(installed):
    check_transformers(installed)


def test_the_package_admits_the_versions_that_it_was_tested_with():
    (bound,) = [line for line in requires("cola-rl") if re.match(r"transformers\b", line)]
    assert sorted(re.findall(r"[<>=]+[\d.]+", bound)) == [f"<{TRANSFORMERS[1]}", f">={TRANSFORMERS[0]}"]


def test_the_oldest_versions_that_are_tested_are_the_lower_bounds():
    lines = [line for line in OLDEST.read_text().splitlines() if not line.startswith("#")]
    required = [Requirement(line) for line in requires("cola-rl")]
    bounds = {
        canonicalize_name(one.name): Version(bound.version)
        for one in required
        for bound in one.specifier
        if bound.operator == ">="
    }
    for name, tested in (line.split("==") for line in lines):
        if name != "torch":  # of its lower bound there is no CPU build to test with
            assert bounds[canonicalize_name(name)] == Version(tested)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_forward_goes_on_from_a_cache_by_either_name(cola, ids, name):
    whole = cola(ids).logits
    first = cola(ids[:, :3], use_cache=True)
    assert first.past_key_values is first.cache
    rest = cola(ids[:, 3:], **{name: first.cache})
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forward_takes_a_cache_by_its_place(cola, ids):
    first = cola(ids[:, :3], None, None, DynamicCache())
    assert first.cache.get_seq_length() == 3
    torch.testing.assert_close(
        cola(ids[:, 3:], None, None, first.cache).logits, cola(ids).logits[:, 3:], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_generate_fills_and_uses_the_cache_that_it_is_given_by_either_name(cola, ids, name):
    expected = cola.generate(ids, use_cache=False, **SETTINGS)
    cache = DynamicCache()
    assert torch.equal(cola.generate(ids, **{name: cache}, **SETTINGS), expected)
    # The last token was written and not read.
    assert cache.get_seq_length() == expected.shape[1] - 1
    longer = cola.generate(expected, **{name: cache}, **SETTINGS)
    assert torch.equal(longer, cola.generate(expected, use_cache=False, **SETTINGS)), "goes on from a cache"


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True])
def test_the_generate_of_transformers_itself_writes_the_same_tokens(cola, ids, given):
    cache = {cache_name(): DynamicCache()} if given else {}
    out = GenerationMixin.generate(cola, ids, do_sample=False, **cache, **SETTINGS)
    assert torch.equal(out, cola.generate(ids, use_cache=False, **SETTINGS))


def test_a_cache_of_a_fixed_number_of_layers_is_refused(cola, ids):
    with pytest.raises(ValueError, match=r"cache_implementation='static'.*leave it out"):
        cola.generate(ids, cache_implementation="static", **SETTINGS)
    assert cola.generate(ids, cache_implementation="dynamic", **SETTINGS).shape == (2, 15)


@torch.no_grad()
@pytest.mark.parametrize("sampled", [False, True])
def test_a_dict_of_generate_holds_the_cache(cola, ids, sampled):
    out = cola.generate(ids, do_sample=sampled, return_dict_in_generate=True, **SETTINGS)
    assert out[cache_name()].get_seq_length() == out.sequences.shape[1] - 1


@torch.no_grad()
def test_two_caches_are_refused_and_one_by_two_names_is_not(cola, ids):
    for call in (cola, cola.generate):
        with pytest.raises(ValueError, match="two names of one argument"):
            call(ids, cache=DynamicCache(), past_key_values=DynamicCache())
    cache = DynamicCache()
    cola(ids, cache=cache, past_key_values=cache)
    assert cache.get_seq_length() == ids.shape[1]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampled", [False, True])
def test_several_returned_sequences_and_padding_take_a_cache_by_either_name(cola, ids, name, sampled):
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    given = {"attention_mask": mask, "num_return_sequences": 2, "do_sample": sampled, **SETTINGS}
    torch.manual_seed(0)
    expected = cola.generate(ids, use_cache=False, **given)
    torch.manual_seed(0)
    assert torch.equal(cola.generate(ids, **{name: DynamicCache()}, **given), expected)


def test_a_system_without_posix_is_refused_with_what_to_do() -> None:
    with pytest.raises(ImportError, match=r"needs Linux or macOS, and this system is 'nt'.*in WSL"):
        check_system("nt")
    check_system()
