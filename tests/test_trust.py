"""Rows of faults that no other file tests (row 3.2 is the second of what held when attacked), and their neighbours."""

import resource

import numpy as np
import odd
import pytest
import torch

from mow_nb.core import CheckpointError, ConfigError, DiskError, EnvError
from mow_nb.envs import tasks
from mow_nb.envs.check_env import check_env
from mow_nb.envs.tasks import register
from mow_nb.envs.vector import make_env
from mow_nb.store import checkpoint
from mow_nb.store.presets import changed, preset
from mow_nb.tools.cli import main
from mow_nb.training.run import train

# ---- section 2


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    "Tasks that a test registers are gone after it"
    monkeypatch.setattr(tasks, '_USER', dict(tasks._USER))


def test_row_2_9_vanished_keys(tmp_path, capsys):
    "row 2.9: a key that vanishes from config.toml would take its default in silence; the checkpoint knows better"
    run = train(changed(preset('toy'), {'agent.gamma': 0.9}), 'x', tmp_path, quiet=True)
    text = (run / 'config.toml').read_text()
    assert text.count('gamma = 0.9\n') == 1
    (run / 'config.toml').write_text(text.replace('gamma = 0.9\n', ''))
    for words in (['evaluate', run], ['train', 'toy', '--name', 'x', '--root', tmp_path, '--resume', '--quiet']):
        code = main([*map(str, words)])
        error = capsys.readouterr().err
        assert code in (2, 3) and error.count('\n') == 1 and 'gamma' in error, error
    assert main(['check', str(run)]) == 3


# ---- section 3


def test_row_3_2_every_damage_is_refused(tmp_path):
    "row 3.2: a checkpoint with one bit changed, or shorter by some bytes, anywhere: 300 of 300 are refused"
    checkpoint.save(tmp_path, 1, dict(w=torch.arange(50.0), v=torch.ones(3, 2)), dict(n=1))
    folder, rng = checkpoint.checkpoints(tmp_path)[0], np.random.default_rng(0)
    assert checkpoint.read_checkpoint(folder).step == 1
    files = sorted(p for p in folder.iterdir() if p.is_file())
    for n in range(300):
        file = files[n % len(files)]
        kept = file.read_bytes()
        raw = bytearray(kept)
        if n % 5:
            raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        else:
            del raw[rng.integers(len(raw)) :]
        file.write_bytes(raw)
        with pytest.raises(CheckpointError):
            checkpoint.read_checkpoint(folder)
        file.write_bytes(kept)
    assert checkpoint.read_checkpoint(folder).extra == dict(n=1)


def test_row_3_3_disk_full_while_saving(tmp_path):
    "row 3.3: files that may not grow any more while a checkpoint is saved: the older one is whole, no rest is left"
    checkpoint.save(tmp_path, 1, dict(w=torch.ones(4)), dict(n=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(DiskError):
            checkpoint.save(tmp_path, 2, dict(w=torch.ones(10_000)), dict(n=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(tmp_path).extra == dict(n=1)
    assert [p.name for p in tmp_path.iterdir()] == ['step-000000001']


@pytest.mark.parametrize('name', ['ALE/Pong-v5', 'Pong-v4', 'PongNoFrameskip-v4', 'Pong-v0'])
def test_row_3_9_spellings_of_atari(name):
    "row 3.9: Atari's ids in every spelling, as tasks of one's own"
    env = make_env(register('own', name), 32)
    assert env.task.n_actions == 6 and env.reset(0)[0].shape == (32, 32, 3)
    env.close()


# ---- what somebody tried who wanted to break it


@pytest.mark.parametrize(
    'given',
    [dict(n_actions=3.0), dict(n_actions='3'), dict(n_actions=-1), dict(d_continuous=10**9), dict(d_continuous=-1)],
)
def test_numbers_of_actions(given):
    "neighbours of row 2.7: numbers of actions that are none, or for which no machine has room"
    with pytest.raises(ConfigError, match="of task 'own' must") as stop:
        register('own', odd.Own, **given)
    assert '\n' not in str(stop.value) and 'own' not in tasks._USER
    assert register('own', odd.Own, n_actions=np.int64(3)).n_actions == 3


@pytest.mark.parametrize('name', ['half\udcff', 'next\u2028line', 'turned\u202eround', 'nul\u200b'])
def test_names_that_cannot_be_printed(name):
    "neighbours of row 2.21: names that no TOML file could hold, or that would look like others"
    with pytest.raises(ConfigError, match='cannot be printed'):
        register(name, odd.Own, n_actions=3)
    assert register('größe 2 🦄', odd.Own, n_actions=3).name == 'größe 2 🦄'


def test_asking_for_actions():
    "neighbours of row 2.5: a factory that leaves is one line; one whose environment cannot be closed is taken"
    with pytest.raises(ConfigError, match='SystemExit: 3|SystemExit \\(3\\)'):
        register('own', lambda: odd.out(SystemExit(3)))
    stuck = type('Stuck', (odd.Silent,), dict(close=lambda self: odd.out(OSError('stuck'))))
    assert register('own', lambda: stuck()).n_actions == 3


@pytest.mark.parametrize('words', [['--import', 'leaves'], ['--import'], ['--import='], ['--import=leaves.py']])
def test_imports_that_leave(words, tmp_path, monkeypatch, capsys):
    "neighbours of row 2.17: a module that calls `sys.exit(3)` does not end the program with somebody else's code"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'leaves.py').write_text('import sys\nsys.exit(3)\n')
    assert main(['tasks', 'pocket', *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith('mow: --import') and error.count('\n') == 1, error


@pytest.mark.parametrize('reward', [1e300, -1e39])
def test_rewards_that_do_not_fit(reward):
    "neighbours of row 2.2: a reward that would be stored as infinity is refused; the largest that fits is taken"
    env = make_env(register('own', odd.variant('Rich', reward=reward), n_actions=3), 32)
    env.reset(0)
    with pytest.raises(EnvError, match="^task 'own': the reward is "):
        env.step(np.eye(18)[0])
    rich = make_env(register('own', odd.variant('Richest', reward=3e38), n_actions=3), 32)
    rich.reset(0)
    assert np.isfinite(np.float32(rich.step(np.eye(18)[0])[1]))


class OneArray(odd.Own):
    "Draws all its pictures into one array"

    def look(self):
        self.array = getattr(self, 'array', odd.COLOUR.copy())
        self.array[:] = self.t
        return self.array


def test_one_array_for_all_pictures():
    "a picture that an environment gave is not changed by its next step, and `check_env` sees that it moves"
    env = make_env(register('own', OneArray, n_actions=3), 64)
    first = env.reset(0)[0]
    env.step(np.eye(18)[0])
    assert (first == 0).all()
    assert not [f for f in check_env('own') if f.part == 'picture' and f.odd]


def test_check_env_at_its_edges():
    "`check_env` of no steps, and of an environment that answers no longer when it is asked again"
    register('own', odd.Silent, n_actions=3)
    for edge in (dict(steps=0), dict(steps=-1), dict(size=0)):
        with pytest.raises(ConfigError, match='must be at least 1'):
            check_env('own', **edge)
    stubborn = type('Stubborn', (odd.Silent,), dict(observation_space=Bad()))
    register('own', stubborn, n_actions=3)
    (found,) = [f for f in check_env('own', steps=3) if f.part == 'spaces']
    assert found.odd and 'asking again failed (RuntimeError' in found.text


class Bad:
    "A space that cannot be asked"

    def contains(self, x):
        raise RuntimeError('no answer')
