"""Environments that crash, raise, hang, exit and return NaN, through the same pool that training uses; and the death of
the training process itself, after which no other may be left. What a notebook cannot show."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: F401  is here so that it could leak into a worker
from faulty import Faulty

from mow_nb.core import EnvError
from mow_nb.envs.tasks import register, tasks_of
from mow_nb.envs.vector import Pool, make_env
from mow_nb.envs.workers import IsolatedEnv, Worker, WorkerError

HERE = Path(__file__).resolve().parent
FAULTS = dict(
    crash='crash', exception='raise', hang='hang', exit='exit', nan='nan'
)  # kind that is counted -> what is asked for
STEPS = 230


@pytest.fixture(scope='module')
def shaken():
    "A pool of one good environment and one per fault, each of which fails at its 120th step, stepped 230 times"
    register('good', IsolatedEnv(Faulty), n_actions=3)
    for kind, what in FAULTS.items():
        limit = dict(timeout=5.0) if what == 'hang' else {}  # a busy machine is slow, not broken
        register(f'bad-{kind}', IsolatedEnv(partial(Faulty, {120: what}), **limit), n_actions=3)
    pool = Pool(tasks_of(','.join(['good', *(f'bad-{k}' for k in FAULTS)])), size=16)
    acts = np.zeros((len(pool.tasks), 18), np.float32)
    acts[:, 0] = 1
    log = [pool.step(acts) for _ in range(STEPS)]
    yield pool, log
    pool.close()


def test_delivered(shaken, capsys):
    "At least 99 % of the steps come from the environments, and every loss is counted under its name"
    pool, log = shaken
    share = 1 - sum(pool.lost) / (pool.played * len(pool.tasks))
    lost, played = sum(pool.lost), pool.played * len(pool.tasks)
    with capsys.disabled():
        print(f'\nworkers: {lost} of {played:,} steps lost, {share:.2%} delivered; {pool.faults}')
    assert share >= 0.99 and pool.played == STEPS
    assert {t: list(f) for t, f in pool.faults.items()} == {f'bad-{k}': [k] for k in FAULTS}
    rew = np.array([s.rew for s in log])
    assert np.isfinite(rew).all() and set(rew[:, 0]) == {1.0} and (rew[:, 1:].sum(0) == STEPS - 1).all()


def test_broken_episodes_are_truncated(shaken):
    "The episode that broke is over without being terminated, and the next begins in a new process"
    pool, log = shaken
    done, cont = np.array([s.done for s in log]), np.array([s.cont for s in log])
    assert cont.all(), 'a fault is not an end of the world'
    assert all(list(np.flatnonzero(done[:, k])) == [99, 119, 219] for k in range(1, len(pool.tasks))), (
        'episodes of 100 steps, but for the one that broke after 20'
    )
    assert list(np.flatnonzero(done[:, 0])) == [99, 199]
    broken = {e.task: [x.broken for x in pool.finished if x.task == e.task] for e in pool.finished}
    assert broken == {'good': [False, False], **{f'bad-{k}': [False, True, False] for k in FAULTS}}


def test_no_torch(shaken):
    "A worker has no PyTorch, though this process has"
    worker = shaken[0].envs[0].worker
    worker.reset(0)
    worker.send(0)
    assert worker.recv()[4]['torch'] is False


def test_gives_up():
    "One line that names the task and the cause, an exit code of 5"
    register('hopeless', IsolatedEnv(partial(Faulty, {1: 'crash'}), max_restarts=2), n_actions=3)
    pool = Pool(tasks_of('hopeless'), size=16)
    with pytest.raises(EnvError, match=r"^task 'hopeless': failed 3 times .* ended by signal 11$") as stop:
        for _ in range(9):
            pool.step(np.eye(18, dtype=np.float32)[[0]])
    assert stop.value.exit_code == 5
    pool.close()


@pytest.mark.parametrize('how', ['crash', 'hang'])
def test_an_import_that_fails(how):
    "What cannot even be imported ends in one line, and the next environment is none the worse"
    with pytest.raises(
        WorkerError, match=rf'^no worker could be spawned: importing faulty:{how} crashed, or took more than 1 s$'
    ):
        Worker(IsolatedEnv(Faulty, preload=(f'faulty:{how}',), start_timeout=1.0))
    well = Worker(IsolatedEnv(Faulty))
    assert well.reset(3)[0].mean() == 3
    well.close()


def test_robots_have_no_torch():
    "Neither has the process of a robot"
    env = make_env(*tasks_of('reach-v3'))
    env.reset(0)
    libraries = Path(f'/proc/{env.worker.process.pid}/maps').read_text()
    env.close()
    assert 'libmujoco' in libraries and 'libtorch' not in libraries


def test_killed_from_outside():
    "Somebody kills a worker, then the process that workers are forked from; both are replaced"
    worker = Worker(IsolatedEnv(Faulty))
    worker.reset(0)
    for pid in (worker.process.pid, worker.process.server.process.pid):
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        worker.send(0)
        assert worker.recv()[2:] == (False, True, dict(fault='crash'))
        worker.reset(5)
        worker.send(0)
        assert worker.recv()[0][0, 0, 0] == 6
    worker.close()


TRAINER = '''
import sys, time
from functools import partial
from faulty import Faulty
from mow_nb.envs.workers import IsolatedEnv, Worker
crew = [Worker(IsolatedEnv(partial(Faulty, {1: what}))) for what in ('fine', 'hang', 'spin')]
for w in crew: w.reset(0); w.send(0)
print(crew[0].process.server.process.pid, *(w.process.pid for w in crew), flush=True)
time.sleep(60)
'''


def alive(pid):
    "Is there such a process, other than as a record of its end?"
    try:
        return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel of Linux ends workers whose trainer has gone')
@pytest.mark.parametrize('sign', [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left(sign, popen):
    "The trainer is killed while one worker waits, one sleeps for ever and one turns in circles"
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (HERE, HERE.parent)))}
    trainer = popen([sys.executable, '-c', TRAINER], stdout=subprocess.PIPE, text=True, env=env)
    pids = list(map(int, trainer.stdout.readline().split()))
    assert len(pids) == 4 and all(map(alive, pids))
    trainer.send_signal(sign)
    trainer.wait()
    trainer.stdout.close()
    end = time.time() + 10
    while any(map(alive, pids)) and time.time() < end:
        time.sleep(0.05)
    left = [p for p in pids if alive(p)]
    for p in left:
        os.kill(p, signal.SIGKILL)
    assert not left
