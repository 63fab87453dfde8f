"""A run that is killed anywhere and started again ends like one that was left alone: every weight, every moment of the
optimisers, the replay, the journal, the evaluations; on pocket tasks and on real Atari games. The kills are SIGKILLs of
real processes."""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import pkgutil
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mow_nb.core import CheckpointError, np_rng
from mow_nb.store import checkpoint
from mow_nb.store.journal import read_metrics
from mow_nb.store.presets import changed, preset
from mow_nb.training.run import train

# log_every and save_every do not divide one another, and a round is left over at the end: each counter must be right
TIMES = {'train.warmup': 10, 'train.train_every': 3, 'train.log_every': 4, 'train.save_every': 7, 'train.threads': 1}
OPTIONS = dict(
    pocket=TIMES | {'train.prefill': 45, 'train.env_steps': 121, 'train.eval_every': 9},
    # sticky actions are on, and no game ends within a hundred steps, so every kill is in mid-episode
    atari=TIMES
    | {'tasks': 'Pong,Breakout', 'model.vae.size': 64, 'train.prefill': 30, 'train.env_steps': 101}
    | {'train.hold': 8, 'train.explore': 0.3, 'train.rewarded': 0.3, 'train.newest': 0.3, 'train.starts': 2}
    | {'agent.entropy_target': 0.2},
)

# ---- runs in processes of their own


def child(kind, root, death=None):
    "The run, from wherever it stands; `death` = the function call that it does not survive"
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(Path(root) / 'words.txt', 'a', buffering=1)
    if death:
        arm(*death)
    train(changed(preset('toy'), OPTIONS[kind]), kind, root, resume=True)


def arm(name, count, late=False):
    "Let this process die in the `count`-th call of a function, before it does anything or (`late`) after it has"
    owner, _, last = name.rpartition('.')
    owner, calls = pkgutil.resolve_name(owner), [0]
    plain = getattr(owner, last)

    def fatal(*args, **kw):
        calls[0] += 1
        if calls[0] == count and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        out = plain(*args, **kw)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return out

    setattr(owner, last, fatal)


PROCESSES = multiprocessing.get_context('forkserver')  # importing everything once is enough
PROCESSES.set_forkserver_preload(['pytest', 'torch._dynamo', 'mow_nb.training.run'])


def start(*args):
    process = PROCESSES.Process(target=child, args=args)
    process.start()
    return process


def finished(process, seconds=200):
    "The exit code of a process, negative if a signal ended it"
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def words(root):
    return (Path(root) / 'words.txt').read_text()


@pytest.fixture(scope='session')
def alone(made_once):
    "Undisturbed runs, made by another interpreter: nothing may hang on the order of a set or on what was in memory"

    def make(root):
        root.mkdir()
        code = 'import test_resume as t\nfor kind in t.OPTIONS: t.child(kind, {!r})'.format(str(root))
        env = {
            **os.environ,
            'PYTHONHASHSEED': '1',
            'PYTHONPATH': os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent))),
        }
        done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + words(root)

    return made_once('alone', make)


# ---- what must be equal


def learned(tensors):
    return {k: t for k, t in tensors.items() if k.split('.')[0] in ('world', 'agent', 'opt')}


def untimed(row):
    return {k: v for k, v in row.items() if k != 'seconds'}


def arrays(path):
    with np.load(path) as f:
        return {k: (f[k].dtype.str, f[k].shape, f[k].tobytes()) for k in f}


def same_run(path, want):
    "Two runs' directories hold the same run"
    a, b = (checkpoint.load(p / 'checkpoints') for p in (path, want))
    assert checkpoint.weights_hash(learned(a.tensors)) == checkpoint.weights_hash(learned(b.tensors))
    assert checkpoint.weights_hash(a.tensors) == checkpoint.weights_hash(b.tensors), 'memory or open episodes differ'
    assert untimed(a.extra) == untimed(b.extra)
    for task, n in b.extra['replay'].items():
        for field in ('obs', 'act', 'rew', 'cont'):
            x, y = (np.load(p / 'replay' / task / f'{field}.npy', mmap_mode='r')[:n] for p in (path, want))
            assert len(x) == n and np.array_equal(x, y), (task, field)
    assert list(map(untimed, read_metrics(path))) == list(map(untimed, read_metrics(want)))
    names = lambda p: sorted(f.relative_to(p).as_posix() for d in ('eval', 'analysis') for f in (p / d).iterdir())
    assert names(path) == names(want)
    for name in names(want):
        if name.endswith('.npz'):
            assert arrays(path / name) == arrays(want / name), name
        else:
            assert (path / name).read_text() == (want / name).read_text(), name


def test_undisturbed(alone):
    "The runs that all others are compared with have been through all phases"
    for kind, last in (('pocket', 35), ('atari', 33)):
        found, rows = checkpoint.load(alone / kind / 'checkpoints'), read_metrics(alone / kind)
        assert found.step == last and found.extra['grouped'] is True and found.extra['since'] == 0
        assert len(set(found.extra['labels'])) == 2
        assert [r['updates'] for r in rows] == [4, 8, 10, *range(12, last, 4), last]  # the warm-up ends with a row
        assert [r['phase'] for r in rows] == ['warm-up'] * 3 + ['live'] * (len(rows) - 3)
        assert not found.extra['pool']['finished'], 'episodes pile up in the checkpoints'
        assert any(k.startswith('world.enc') and 'running_var' in k for k in found.tensors)
    state = found.extra['pool']['tasks']
    assert all((s['episode'], s['length']) == (0, 101) for s in state.values()), (
        'a game should be open from beginning to end'
    )
    record = json.loads((alone / 'pocket' / 'eval' / 'step-000000018.json').read_text())
    assert sum(episode['length'] for episode in record['episodes']['track-sea']) == 10


# ---- killed

DEATHS = [
    ('mow_nb.store.replay.Ring.write', 50),  # random play: one task has stored its step, the next has not
    ('mow_nb.training.learner.Learner.learn_model', 6, True),  # warm-up: learned and not counted; no checkpoint yet
    ('mow_nb.store.checkpoint.write_manifest', 1),  # the first checkpoint: files without a manifest
    ('os.rename', 1),  # the first checkpoint: whole, without its name
    ('mow_nb.training.run.save_analysis', 1, True),  # groups written for the report, none in a checkpoint
    ('mow_nb.envs.vector.Pool.step', 4, True),  # live: the environments have moved, the replay has not
    ('mow_nb.training.learner.Learner.learn_behaviour', 3),  # the world has learned and the agent has not
    ('mow_nb.training.run.Run.evaluate', 1, True),  # evaluated at 18 and no checkpoint since 14
    ('mow_nb.store.checkpoint._discard', 1),  # the new checkpoint is there, an old one too many
    ('mow_nb.store.journal.Journal.write', 2, True),  # a line about updates that will be made again
    ('mow_nb.training.run.Run.log', 4, True),  # the last line is written, the last checkpoint is not
    ('mow_nb.training.run.Run.finish', 1),  # trained and not evaluated
    ('numpy.savez_compressed', 1),  # the final evaluation has begun
]


def test_killed_where_it_hurts(alone, tmp_path):
    "The process dies in the middle of things, at chosen places, and every time another goes on"
    for death in DEATHS:
        assert finished(start('pocket', tmp_path, death)) == -signal.SIGKILL, (
            f'{death} was never reached\n{words(tmp_path)}'
        )
    assert finished(start('pocket', tmp_path)) == 0, words(tmp_path)
    same_run(tmp_path / 'pocket', alone / 'pocket')


def played(path, n):
    return lambda: min((int(np.load(h)[1]) for h in path.glob('replay/*/head.npy')), default=0) >= n


def noted(path, n):
    return lambda: len(read_metrics(path)) >= n


def writing(path):
    return lambda: any(path.glob('checkpoints/.tmp-*'))


def grouping(path):
    return lambda: any(path.glob('checkpoints/step-*')) and noted(path, 2)()


def send_signal(process, moment, sign, pause=0.0):
    "Send a signal when the moment has come; was the process still there?"
    end = time.time() + 200
    while process.exitcode is None and time.time() < end and not moment():
        time.sleep(0.0005)
    time.sleep(pause)
    alive = process.exitcode is None
    if alive:
        os.kill(process.pid, sign)
    return alive


def test_killed_from_outside(alone, tmp_path):
    "Two Atari games; somebody else kills the process, wherever it happens to be"
    path, rng, kills = tmp_path / 'atari', np_rng(0, 'kill'), 0
    for moment in (
        played(path, 12),
        noted(path, 1),
        writing(path),
        grouping(path),
        played(path, 48),
        writing(path),
        played(path, 83),
    ):
        process = start('atari', tmp_path)
        kills += send_signal(process, moment, signal.SIGKILL, rng.uniform(0, 0.02))
        finished(process)
    assert kills >= 5, words(tmp_path)
    assert finished(start('atari', tmp_path)) == 0, words(tmp_path)
    same_run(path, alone / 'atari')


def test_interrupted(alone, tmp_path):
    "Ctrl-C, and a scheduler's SIGTERM, leave a checkpoint of the very moment, not of some update before"
    path = tmp_path / 'pocket'
    for n, sign in ((20, signal.SIGINT), (70, signal.SIGINT), (95, signal.SIGTERM)):
        process = start('pocket', tmp_path)
        assert send_signal(process, played(path, n), sign), words(tmp_path)
        assert finished(process) == 1
        found = checkpoint.load(path / 'checkpoints')
        counters = set(found.extra['replay'].values())
        assert counters <= set(range(n, 122)) and len(counters) == 1
        last = [line for line in words(tmp_path).splitlines() if line.startswith('interrupted')][-1]
        place = f"update {found.step}, round {found.extra['replay']['track-sea']}"
        assert last == f'interrupted at {place}; go on with mow train --name pocket --root {tmp_path} --resume'
    assert finished(start('pocket', tmp_path)) == 0, words(tmp_path)
    same_run(path, alone / 'pocket')


# ---- damaged


def test_closed_terminal(tmp_path):
    "A terminal that is closed takes its output with it: the run saves, and ends as SIGHUP asks"
    words = 'mow_nb train toy --name x --train.env-steps 4000 --train.save-every 100000'.split()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, '-m', *words])
    os.set_blocking(terminal, False)
    run, end = tmp_path / 'runs' / 'x', time.monotonic() + 120
    while not (run / 'metrics.jsonl').exists() or len(read_metrics(run)) < 4:
        assert time.monotonic() < end
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 2**16)  # a terminal that nobody reads stops whoever writes
        time.sleep(0.2)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    newest = int(checkpoint.checkpoints(run / 'checkpoints')[0].name.removeprefix('step-'))
    assert newest >= read_metrics(run)[-1]['updates']


def spoil(path):
    "Change one bit of a checkpoint"
    with open(path / 'shared.safetensors', 'r+b') as f:
        f.seek(-1, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_END)
        f.write(bytes([byte ^ 1]))


def test_damaged_newest(alone, tmp_path):
    "The checkpoint before it is used, one line says so, and the end is the same"
    shutil.copytree(alone / 'pocket', tmp_path / 'pocket')
    spoil(checkpoint.checkpoints(tmp_path / 'pocket' / 'checkpoints')[0])
    assert finished(start('pocket', tmp_path)) == 0, words(tmp_path)
    said = [line for line in words(tmp_path).splitlines() if 'is damaged' in line]
    assert len(said) == 1 and 'step-000000035 is damaged (shared.safetensors was altered)' in said[0]
    assert 'going on from update 28' in words(tmp_path)
    same_run(tmp_path / 'pocket', alone / 'pocket')


def test_all_damaged(alone, tmp_path, capsys):
    "Exit code 3, one line, and not a byte is touched"
    path = tmp_path / 'pocket'
    shutil.copytree(alone / 'pocket', path)
    for p in checkpoint.checkpoints(path / 'checkpoints'):
        spoil(p)
    content = lambda: {f: f.read_bytes() for f in sorted(path.rglob('*')) if f.is_file()}
    before = content()
    if importlib.util.find_spec('mow_nb.tools.cli'):
        from mow_nb.tools.cli import main

        options = [word for name, value in OPTIONS['pocket'].items() for word in (f'--{name}', str(value))]
        assert main(['train', 'toy', '--name', 'pocket', '--root', str(tmp_path), '--resume', '--quiet', *options]) == 3
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and 'no usable checkpoint' in error and 'Traceback' not in error
    else:
        with pytest.raises(CheckpointError, match='no usable checkpoint'):
            train(changed(preset('toy'), OPTIONS['pocket']), 'pocket', tmp_path, True, True)
    assert content() == before


# ---- killed while tasks move


REGROUP = {'cluster.every': 5, 'cluster.margin': 0.0, 'cluster.handover': 2, 'cluster.n': 2}


def moving(root, name, death=None):
    "A run whose tasks change places at every comparison, however little that gains"
    import mow_nb.training.grouping as grouping
    import mow_nb.training.run as run

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(Path(root) / 'words.txt', 'a', buffering=1)
    run.better_groups = lambda found, old, margin: {(0, 0, 1): [0, 1, 0]}.get(tuple(old), [0, 0, 1])
    plain = grouping.held_losses
    grouping.held_losses = lambda learner, batches: plain(learner, batches) * 0  # no move is undone
    if death:
        arm(*death)
    train(changed(preset('toy'), OPTIONS['pocket'] | REGROUP), name, root, resume=True)


def test_killed_while_tasks_move(tmp_path):
    "A kill during a comparison, a handover or the checkpoint after it changes nothing of how the run ends"
    deaths = [
        None,
        ('mow_nb.training.run.find_groups', 2, True),  # the second comparison: nothing is decided
        ('mow_nb.training.run.hand_over', 1, True),  # tasks have moved in memory alone
        ('mow_nb.training.run.save_analysis', 1, True),  # written for the report, in no checkpoint
    ]
    for name, those in (('left', deaths[:1]), ('killed', [*deaths[1:], None])):
        for death in those:
            process = PROCESSES.Process(target=moving, args=(tmp_path, name, death))
            process.start()
            assert finished(process) == (-signal.SIGKILL if death else 0), f'{death}\n{words(tmp_path)}'
    same_run(tmp_path / 'killed', tmp_path / 'left')
    rows = read_metrics(tmp_path / 'left')
    assert len({tuple(row['cluster'].values()) for row in rows}) > 1, 'no move is in the journal'
