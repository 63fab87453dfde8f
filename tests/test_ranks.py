"""Several ranks, started by torchrun as a user would, over gloo: the same digest as one process that holds all tasks,
through a kill, a stop, and another number of ranks; and one line for what cannot be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mow_nb.model.ranks import Ranks
from mow_nb.store.checkpoint import checkpoints, load, weights_hash
from mow_nb.store.journal import read_metrics
from mow_nb.store.presets import changed, preset
from mow_nb.store.run_folder import read_config
from mow_nb.tools.cli import main
from mow_nb.tools.rank_run import _train

OPTIONS = {'train.warmup': 4, 'train.prefill': 20, 'train.env_steps': 54, 'train.save_every': 5, 'train.threads': 1}
OPTIONS |= {'cluster.n': 0, 'cluster.through': 'fresh', 'cluster.method': 'average'}
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone']


def torchrun(popen, ranks, root, *words, starts=0):
    "A launcher that trains a toy run, its words going to a file"
    options = [w for name, value in OPTIONS.items() for w in (f'--{name}', str(value))]
    command = [*TORCHRUN, f'--nproc-per-node={ranks}', f'--max-restarts={starts}', '-m', 'mow_nb']
    command += ['train', 'toy', '--root', str(root), *options, *words]
    env = dict(os.environ, OMP_NUM_THREADS='1', TQDM_DISABLE='')
    return popen(command, env=env, stdout=open(root / 'words.txt', 'a'), stderr=subprocess.STDOUT)


def workers(launcher):
    "Process ids of the ranks"
    return [int(pid) for pid in Path(f'/proc/{launcher.pid}/task/{launcher.pid}/children').read_text().split()]


def until(true, launcher, seconds=300):
    "Wait for something, while a launcher lives"
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end and launcher.poll() is None
        time.sleep(0.05)


def learned(path):
    "Digest of all that was learned, Adam's moments and the sums of the journal included"
    found = load(path / 'checkpoints')
    return found.step, weights_hash(found.tensors)


def test_ranks_learn_as_one(tmp_path, popen):
    "Two ranks, each of them killed (SIGKILL) in training, then stopped at the launcher, then one rank; every command"
    config = changed(preset('toy'), OPTIONS)
    _train(config, tmp_path / 'one', Ranks(), False, True)
    path = tmp_path / 'two'
    run = torchrun(popen, 2, tmp_path, '--name', 'two', starts=2)
    said = lambda: (tmp_path / 'words.txt').read_text()
    for rank in (0, 1):  # the first writes checkpoints and journal
        seen = {*checkpoints(path / 'checkpoints')}
        until(lambda: {*checkpoints(path / 'checkpoints')} - seen, run)
        os.kill(workers(run)[rank], signal.SIGKILL)
        until(lambda: said().count('going on from update') > rank, run)
    run.send_signal(signal.SIGTERM)
    run.wait(300)
    assert 'interrupted at update' in said()
    _train(config, path, Ranks(), True, True)
    assert learned(path) == learned(tmp_path / 'one')
    rows = [[(r['updates'], r['rounds'], r['rec']) for r in read_metrics(tmp_path / run)] for run in ('one', 'two')]
    assert rows[0] == rows[1]
    for words in ('check', 'evaluate --episodes=2', 'report', 'hash', 'drop --tasks=track-night', 'check --quick'):
        command, *options = words.split()
        assert main([command, 'two', '--root', str(tmp_path), *options]) == 0, words
    assert (path / 'report.html').exists()
    # one process takes a task in and trains on what the ranks have trained
    assert main(['add', 'two', '--root', str(tmp_path), '--tasks=track-night', '--max-unexplained=9', '--quiet']) == 0
    assert read_config(path).tasks == 'reach-night,track-sea,track-night'
    assert load(path / 'checkpoints').step > learned(tmp_path / 'one')[0]


def test_ranks_that_disagree(tmp_path):
    "One line that names rank and field, and no run"
    mow = f'exec {sys.executable} -m mow_nb "$@" --seed=$RANK'
    command = [*TORCHRUN, '--nproc-per-node=2', '--no-python', 'bash', '-c', mow, 'mow']
    command += ['train', 'toy', '--name', 'no', '--root', str(tmp_path)]
    env = dict(os.environ, OMP_NUM_THREADS='1')
    said = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    lines = [line for line in said.stderr.splitlines() if line.startswith('mow:')]
    assert lines == ['mow: rank 1 has seed=1, rank 0 has 0: they must be alike']
    assert said.returncode and not (tmp_path / 'no').exists()


def test_ranks_of_narrow_and_wide_actions(tmp_path, popen):
    "A rank whose own tasks have narrower actions than the run's widest; and the run takes in another such task"
    run = torchrun(popen, 2, tmp_path, '--name', 'both', '--tasks', 'track-night,steer-sea', '--train.env_steps', '30')
    assert run.wait(300) == 0, (tmp_path / 'words.txt').read_text()
    assert main(['add', str(tmp_path / 'both'), '--tasks', 'reach-sea', '--max-unexplained=9', '--quiet']) == 0
    assert read_config(tmp_path / 'both').tasks == 'track-night,steer-sea,reach-sea'
