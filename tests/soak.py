"""Runs that are killed, signalled, damaged and given bad environments for as long as one likes; prints a table.

usage: python tests/soak.py [--seconds 3600] [--seed 0]     exit code 1 if anything was lost

Each run lives several lives: a process trains it until it is killed or asked to stop at a moment drawn at random;
sometimes its newest checkpoint is damaged afterwards, and another process goes on. In the end it must equal, key by
key, a run that was left alone. Between runs, copies of a finished one are damaged (`fuzz.py`), and workers are given
faulty environments.
"""

import argparse
import collections
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import test_resume
from faulty import Faulty
from fuzz import Fuzz, flip, overwrite, truncate

from mow_nb.core import np_rng
from mow_nb.envs.tasks import random_actions, register
from mow_nb.envs.vector import Pool
from mow_nb.envs.workers import IsolatedEnv
from mow_nb.store import checkpoint

SIGNALS = dict(KILL=0.5, TERM=0.2, INT=0.2, HUP=0.1)
FAULTS = ('raise', 'crash', 'exit', 'nan')


class Soak:
    "What was done, and what came of it"

    def __init__(self, root, seed=0):
        self.root, self.rng, self.counts, self.wrong = Path(root), np_rng(seed, 'soak'), collections.Counter(), []
        (self.root / 'alone').mkdir()
        began = time.time()
        assert test_resume.finished(test_resume.start('pocket', self.root / 'alone')) == 0
        self.alone, self.takes = self.root / 'alone' / 'pocket', time.time() - began
        self.fuzz = Fuzz(self.root, seed)

    def life(self, root):
        "One process, until it ends or is ended; is the run finished?"
        process = test_resume.start('pocket', root)
        sign = self.rng.choice([*SIGNALS], p=[*SIGNALS.values()])
        end = time.time() + self.rng.uniform(0.1, 0.9) * self.takes
        while process.exitcode is None and time.time() < end:
            time.sleep(0.002)
        if process.exitcode is None:
            os.kill(process.pid, getattr(signal, f'SIG{sign}'))
            self.counts[f'SIG{sign}'] += 1
        code = test_resume.finished(process)
        # before it trains and after, a signal ends a process as it ends any other: there is nothing to save
        if code not in (0, 1, -getattr(signal, f'SIG{sign}')):
            self.wrong.append(f'a process ended with {code}: {test_resume.words(root)[-500:]}')
        return code == 0

    def run(self, n):
        "One run, through as many lives as it takes"
        root = self.root / f'run-{n}'
        root.mkdir()
        for _ in range(20):
            if self.life(root):
                break
            found = checkpoint.checkpoints(root / 'pocket' / 'checkpoints')
            if len(found) > 1 and self.rng.random() < 0.4:
                damage = [flip, truncate, overwrite][self.rng.integers(3)]
                files = sorted(p for p in found[0].iterdir() if p.is_file())
                damage(self.rng, found[0], files[self.rng.integers(len(files))], None)
                self.counts['damaged checkpoints'] += bool(checkpoint.verify(found[0]))
        else:
            test_resume.finished(test_resume.start('pocket', root))
        self.compare(root / 'pocket')
        shutil.rmtree(root)

    def compare(self, path):
        "Key by key with the run that was left alone"
        a, b = (checkpoint.load(p / 'checkpoints').tensors for p in (path, self.alone))
        self.counts['runs'] += 1
        self.counts['keys compared'] += len(b)
        self.counts['keys that differ'] += len(a.keys() ^ b.keys())
        self.counts['keys that differ'] += sum(
            a[k].numpy().tobytes() != b[k].numpy().tobytes() for k in a.keys() & b.keys()
        )
        try:
            test_resume.same_run(path, self.alone)
        except AssertionError as e:
            self.wrong.append(f'a run does not equal the one that was left alone: {str(e)[:300]}')

    def workers(self, n, steps=500):
        "Four workers, each failing in its own way at a step drawn at random, in every process anew; what is delivered?"
        tasks = []
        for what in FAULTS:
            make = IsolatedEnv(partial(Faulty, {int(self.rng.integers(110, 400)): what}))
            tasks.append(register(f'faulty {n} {what}', make, n_actions=3))
        pool, rng = Pool(tuple(tasks), size=16), np_rng(n, 'soak actions')
        for _ in range(steps):
            pool.step(random_actions(pool.tasks, 0, rng))
        self.counts['steps with workers'] += 4 * steps
        self.counts['steps lost'] += sum(pool.lost)
        self.counts['faults of workers'] += sum(sum(kinds.values()) for kinds in pool.faults.values())
        pool.close()

    def table(self):
        "What was counted"
        f = self.fuzz.counts
        rows = [*self.counts.items(), *((f'fuzz: {k}', v) for k, v in f.items())]
        return '\n'.join(f'{name:24}{value:10,}' for name, value in [*rows, ('went wrong', len(self.all_wrong()))])

    def all_wrong(self):
        return [*self.wrong, *map(str, self.fuzz.faults)]


def soak(seconds, seed=0):
    "A `Soak` after so many seconds"
    end = time.time() + seconds
    with tempfile.TemporaryDirectory() as root:
        s, n = Soak(root, seed), 0
        while n == 0 or time.time() < end:
            s.run(n)
            s.workers(n)
            for k in range(3):
                s.fuzz.once(3 * n + k, slow=k == 0)
            n += 1
            print(f'after {seconds - (end - time.time()):.0f} s', s.table(), sep='\n', flush=True)
    return s


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seconds', type=float, default=3600)
    p.add_argument('--seed', type=int, default=0)
    own = p.parse_args()
    s = soak(own.seconds, own.seed)
    print(*s.all_wrong(), sep='\n\n')
    return bool(s.all_wrong())


if __name__ == '__main__':
    sys.exit(main())
