"""A latent-action model on text of one's own: world model, policy, and what they cost against the base."""

import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from cola_agents import CoLAForCausalLM
from cola_agents.decoding.loading import BUNDLED
from cola_agents.train.runs import Run
from cola_agents.train.specs import parse_data
from cola_agents.train.training import train


def main(steps: int = 100) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        animals = ("cat", "dog", "bird", "fox")
        lines = [f"The {a} sees the {b}, and the {b} runs." for a in animals for b in animals if a != b]
        (folder / "text.txt").write_text("\n".join(lines))

        # A document a line; `cola pretrain world --data text.txt,unit=line ...` is the same thing.
        data = tuple(parse_data([f"{folder / 'text.txt'},unit=line"]))
        shared = {
            "data": data,
            "steps": steps,
            "config": {"rows": 4, "length": 64, "warmup": 5, "log_every": 20},
        }
        world = Run("world", str(BUNDLED / "base"), folder / "world", grow={"num_codes": 16}, **shared)
        train(world, print)
        policy = Run("policy", str(folder / "world"), folder / "policy", held_out=data, **shared)
        metrics = train(policy, print)
        train(policy, print)  # a stopped run would go on here; this one is finished

        print(f"cross-entropy: base {metrics.base_ce:.2f}, with latent actions {metrics.composed_ce:.2f}")
        model = CoLAForCausalLM.from_pretrained(folder / "policy").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
        ids = tokenizer("The cat", return_tensors="pt").input_ids
        with torch.no_grad():
            print(tokenizer.decode(model.generate(ids, max_new_tokens=16)[0], skip_special_tokens=True))
    return metrics.composed_ce


if __name__ == "__main__":
    main()
