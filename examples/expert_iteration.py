"""Expert iteration: tree search improves on the policy, and the policy is cloned from its visit counts."""

import gymnasium as gym
import torch
from torch.nn.utils.rnn import pad_sequence

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents import collect
from cola_agents.rl.actors import LatentActor
from cola_agents.search import MCTS, SearchConfig

TASK = "CoLA-TextRooms-v0"


def visited(result, least):
    """The states in which a search took at least so many actions: tokens, and how often it took each."""
    for tree in result.trees:
        for node in range(len(tree)):
            counts = {tree.line(child)[0]: tree.visits(child) for child in tree.children(node)}
            if sum(counts.values()) >= least:
                yield torch.tensor(tree.forest.states[tree.number][node].tokens), counts


def clone(actor, base, optimiser, states, size=64):
    """One pass of cross-entropy of the policy against the shares of the visits."""
    for part in torch.randperm(len(states), generator=torch.Generator().manual_seed(0)).split(size):
        tokens, counts = zip(*(states[i] for i in part.tolist()), strict=True)
        ids, wanted = pad_sequence(tokens, batch_first=True), torch.zeros(len(part), actor.num_actions)
        for row, visits in zip(wanted, counts, strict=True):
            row[list(visits)] = torch.tensor(list(visits.values())) / sum(visits.values())
        with torch.no_grad():
            hidden = base(input_ids=ids, use_cache=False).last_hidden_state
        ends = torch.tensor([len(row) - 1 for row in tokens])
        features = actor.encode(ids, hidden)[range(len(part)), ends]
        loss = -(wanted * actor.logits(features).log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main(rounds=5, problems=96, simulations=24, test_episodes=256, seed=0):
    train, test = (gym.make_vec(TASK, num_envs=32, split=split).unwrapped for split in ("train", "test"))
    actor = LatentActor(train.episodes.backbone)
    optimiser = torch.optim.AdamW(actor.parameters(), lr=3e-4, weight_decay=0.0)
    for number in range(rounds + 1):
        greedy, sampled = (
            collect(test.episodes, actor, seeds=range(test_episodes), temperature=temperature).episode_rewards
            for temperature in (0.0, 1.0)
        )
        print(f"round {number}: test games won {greedy.mean():.3f} greedy, {sampled.mean():.3f} sampled")
        if number < rounds:
            search = MCTS(train.episodes, SearchConfig(simulations, noise=0.3), policy=actor, seed=seed)
            result = search.solve([10_000 * seed + number * problems + i for i in range(problems)])
            clone(actor, train.episodes.backbone.base, optimiser, list(visited(result, least=8)) * 4)
    return sampled.mean().item()


if __name__ == "__main__":
    main()
