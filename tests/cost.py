"""Measure what presets cost on one processor core, for `mow train --help`: mow_nb/data/presets/_measured.toml.

usage: python tests/cost.py [PRESET ...]    (default: every preset that is a whole run, which takes an hour)

Processor seconds are read where the work is our own, since other work on the machine does not add to them; environments
work in processes of their own, and of their steps the quickest counts.
"""

import resource
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import tomli_w

FILE = Path(__file__).resolve().parent.parent / 'mow_nb' / 'data' / 'presets' / '_measured.toml'


def children(process):
    "All processes that descend from this one, those that have just ended left out"
    found = []
    for thread in Path(f'/proc/{process}/task').glob('*/children'):
        for child in thread.read_text().split():
            found += [int(child), *children(child)]
    return found


def own_bytes(process):
    "Memory of a process, what it shares with others shared out among them"
    lines = Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('Pss:'))


def cost(name, updates=5):
    "Seconds of an update and of a round, and bytes of memory at the end, environments included"
    import torch

    from mow_nb.agent.player import Agent
    from mow_nb.core import generator
    from mow_nb.eval.evaluation import pool_of
    from mow_nb.store.presets import changed, preset
    from mow_nb.tools.bench import groups, laps, random_batch
    from mow_nb.training.learner import Learner

    torch.set_num_threads(1)
    config = changed(preset(name), {'train.device': 'cpu'})
    learner = Learner(config, groups(config))
    batch, starts = (random_batch(config, 'cpu', starts=s) for s in (False, True))
    spent = [sum(laps(learner, batch, time.process_time, starts).values()) for _ in range(updates)]
    agent, act, envs = Agent(learner.world, learner.actor_critic, config.train.act_context), [], []
    pool = pool_of(config)
    try:
        for i in range(2 * config.train.act_context):  # in the second half the memory of the agent is full
            start = time.process_time()
            action = agent.act(pool.obs, generator(0, 'cost', step=i))
            act.append(time.process_time() - start)
            start = time.perf_counter()
            pool.step(action)
            envs.append(time.perf_counter() - start)
        others = sum(map(own_bytes, children('self')))
    finally:
        pool.close()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    act = act[len(act) // 2 :]
    return dict(
        update=round(min(spent), 3), round=round(min(act) + min(envs), 4), memory=round((peak + others) / 1e9, 1)
    )


def main(*names):
    from mow_nb.store.presets import PRESETS, is_run

    if names[:1] == ('--one',):
        return print(tomli_w.dumps(cost(names[1], int(names[2]))))
    known = tomllib.loads(FILE.read_text())
    for name in names or filter(is_run, PRESETS):
        few = '1' if name in ('atari26', 'mt50') else '5'  # each takes minutes
        told = subprocess.run(
            [sys.executable, __file__, '--one', name, few], stdout=subprocess.PIPE, text=True, check=True
        )
        kept = {k: v for k, v in known.get(name, {}).items() if k != 'estimated'}
        known[name] = kept | tomllib.loads(told.stdout)
        FILE.write_text(tomli_w.dumps(known))
        print(name, known[name], flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
