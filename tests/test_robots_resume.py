"""A run with a robot task is killed with SIGKILL in mid-episode.

No worker may be left, and the run that goes on must end with the weights, the open episodes and the replay of a run
that nobody disturbed.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mow_nb.store import checkpoint

ROOT = Path(__file__).resolve().parent.parent
# one episode of 250 decisions is open from beginning to end; the pocket task beside it has ended several
RUN = '''
import sys, torch
from mow_nb.store.presets import changed, preset
from mow_nb.training.run import train
torch.set_num_threads(1)
steps = {'train.env_steps': 60, 'train.prefill': 24, 'train.warmup': 4, 'train.save_every': 8, 'eval.max_steps': 4}
config = changed(preset('toy'), {'tasks': 'reach-v3,track-sea', 'train.threads': 1} | steps)
train(config, 'robots', sys.argv[1], resume=True, quiet=True)
'''


def members(group):
    "Processes of a session that still run"
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, _, session = stat.read_text().rpartition(')')[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == group and state != 'Z':
            found.append(int(stat.parent.name))
    return found


def wait(true, seconds=150):
    end = time.time() + seconds
    while not true() and time.time() < end:
        time.sleep(0.01)
    return true()


def replay(path, task, field, n):
    return np.load(path / 'robots' / 'replay' / task / f'{field}.npy', mmap_mode='r')[:n]


def test_killed_in_mid_episode(tmp_path, popen):
    start = lambda root: popen([sys.executable, '-c', RUN, str(root)], cwd=ROOT, start_new_session=True)
    alone, broken = tmp_path / 'alone', tmp_path / 'broken'
    assert start(alone).wait(200) == 0
    run = start(broken)
    played = broken / 'robots' / 'replay' / 'reach-v3' / 'head.npy'
    assert wait(lambda: any(broken.glob('robots/checkpoints/step-*/manifest.json')) and int(np.load(played)[1]) >= 45)
    assert len(members(run.pid)) >= 3, 'a run, its fork server and a worker'
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert wait(lambda: not members(run.pid), 10), 'a worker has outlived its run'
    saved = checkpoint.load(broken / 'robots' / 'checkpoints')
    assert 0 < saved.extra['pool']['tasks']['reach-v3']['length'] < 60, 'nothing to come back to'
    assert start(broken).wait(200) == 0
    a, b = (checkpoint.load(p / 'robots' / 'checkpoints') for p in (alone, broken))
    assert a.extra['pool']['tasks']['reach-v3']['length'] == 60 and a.step == b.step > saved.step
    assert checkpoint.weights_hash(a.tensors) == checkpoint.weights_hash(b.tensors)
    for task in ('reach-v3', 'track-sea'):
        for field in ('obs', 'act', 'rew', 'cont'):
            assert np.array_equal(replay(alone, task, field, 60), replay(broken, task, field, 60)), (task, field)
    assert len(np.unique(replay(alone, 'reach-v3', 'obs', 60).reshape(60, -1), axis=0)) > 50, (
        'the robot should be seen to move'
    )
