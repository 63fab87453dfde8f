"Is the run that comes with the library worth looking at?"

import numpy as np
import pytest
import torch

from mow_nb.core import generator
from mow_nb.eval.evaluation import pool_of
from mow_nb.eval.rollouts import replayed, strips
from mow_nb.records import Batch
from mow_nb.store.presets import check
from mow_nb.store.run_folder import EXAMPLE, find_run, read_config
from mow_nb.training.share import load

CONTEXT, AHEAD, STARTS = 4, 5, 16


@pytest.fixture(scope='module')
def played():
    "The shipped agent, and windows of its own play in every task: (tasks, agent, batch)"
    torch.set_num_threads(1)
    path = find_run(EXAMPLE)
    config, agent = read_config(path), load(path)
    pool, steps = pool_of(config, 'example'), []
    for t in range(20 * STARTS):
        steps.append(pool.step(agent.act(pool.obs, generator(0, 'play', step=t))))
    pool.close()
    field = lambda name: np.stack([getattr(s, name) for s in steps], 1)
    obs = torch.from_numpy(field('obs')).permute(0, 1, 4, 2, 3).float() / 255
    rest = [torch.from_numpy(field(n)).float() for n in ('act', 'rew', 'cont', 'done')]
    width = CONTEXT + AHEAD + 1
    windows = [], [], [], [], []
    for k in range(len(obs)):
        seam = rest[3][k]
        free = [t for t in range(0, obs.shape[1] - width) if not seam[t : t + width].any()]
        at = [free[int(i)] for i in np.linspace(0, len(free) - 1, STARTS)]
        for out, x in zip(windows, (obs, *rest)):
            out.append(torch.stack([x[k, t : t + width] for t in at]))
    return check(config), agent, Batch(*(torch.stack(w) for w in windows)), obs.mean(1)


def held(agent, batch, buttons, seed):
    "Mean picture over 8 draws, after a dream of AHEAD steps in which one button of each task is held: (K, B, 3, H, W)"
    w, e, draws = agent.world.eval(), agent.world.task_vectors(), 8
    with torch.no_grad():
        z = w.encode(batch.obs[:, :, :CONTEXT], e, generator(0, 'see'))[1].repeat_interleave(draws, 1)
        before = batch.act[:, :, :CONTEXT].repeat_interleave(draws, 1)
        act = torch.zeros(*z.shape[:2], AHEAD, before.shape[-1])
        for k, b in enumerate(buttons):
            act[k, ..., b] = 1
        dream = w.imagine(z, before, replayed(act), AHEAD, generator(seed, 'dream'))
        return w.decode(dream.z[:, :, -1:], e)[:, :, 0].unflatten(1, (-1, draws)).mean(2)


def test_dream_beats_the_mean_picture(played):
    tasks, agent, batch, mean = played
    errors = []
    with torch.no_grad():
        for draw in range(4):
            s = strips(agent.world, batch, CONTEXT, generator(draw, 'strips'))
            real, dream = s.real[:, :, CONTEXT + AHEAD - 1], s.dream[:, :, CONTEXT + AHEAD - 1]
            moving = (real - mean[:, None]).abs().amax(2, keepdim=True) > 0.1
            total = lambda x: (x.square() * moving).sum((1, 2, 3, 4))
            errors.append(total(dream - real) / total(mean[:, None] - real))
    share = torch.stack(errors).mean(0)
    for t, x in zip(tasks, share):
        print(f'{t.name:14} error of the dream on moving pixels, mean picture 1: {x:.2f}')
    # in Boxing, where both players move at will, five steps ahead are no better than the mean picture
    assert all(x < 1 for t, x in zip(tasks, share) if t.name != 'Boxing')


def test_dream_depends_on_buttons(played):
    tasks, agent, batch, _ = played
    ways = [('LEFT', 'RIGHT') if 'LEFT' in t.action_names else ('UP', 'DOWN') for t in tasks]
    one, other = ([t.action_names.index(w[i]) for t, w in zip(tasks, ways)] for i in (0, 1))
    first, second, again = held(agent, batch, one, 0), held(agent, batch, other, 1), held(agent, batch, one, 2)
    size = lambda x: x.square().sum((2, 3, 4))
    effect, chance = size(first - second).sum(1), size(first - again).sum(1)
    ratio = {t.name: float(x) for t, x in zip(tasks, effect / chance)}
    for (name, x), w in zip(ratio.items(), ways):
        print(f'{name:14} {w[0]} against {w[1]}: {x:.2f} times the difference that chance makes')
    # not in every game: the figures of chapter 95 say in which the shipped agent has learned nothing of its buttons
    for name in ('Boxing', 'Breakout', 'CrazyClimber', 'RoadRunner'):
        assert ratio[name] > 1.5, name
