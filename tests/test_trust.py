"""The list of chapter 97: whether each of its rows has a test, and rows that no other file tests.

'row 2.10' is the row with that number in the table of chapter 97; so are the rows named in test_faults.py,
test_refusals.py and test_held.py."""

import ast
import errno
import os
import re
import resource
import shutil
from dataclasses import replace

import numpy as np
import odd
import pytest
import torch
from book import NBS, ROOT, read

from mow_nb.core import CheckpointError, ConfigError, DiskError, EnvError
from mow_nb.envs import tasks
from mow_nb.envs.check_env import check_env
from mow_nb.envs.tasks import register
from mow_nb.envs.vector import make_env
from mow_nb.store import checkpoint
from mow_nb.store.presets import changed, preset
from mow_nb.store.run_folder import has_data
from mow_nb.tools.cli import main
from mow_nb.training import share
from mow_nb.training.run import Run, train
from mow_nb.view.markup import check_page
from mow_nb.view.report import page
from mow_nb.view.summary import gather

# ---- the list


def rows():
    "Number -> (what was seen, the tests that hold it), as chapter 97 shows them"
    cell = next(c.source for c in read(NBS / '97_trust.ipynb').cells if 'ROWS = {' in c.source)
    tree = next(n for n in ast.parse(cell).body if isinstance(n, ast.Assign) and n.targets[0].id == 'ROWS')
    return ast.literal_eval(tree.value)


def defined(file):
    "Functions that a file of tests defines at its top"
    return {n.name for n in ast.parse((ROOT / 'tests' / file).read_text()).body if isinstance(n, ast.FunctionDef)}


def test_every_row_has_its_test():
    "All rows are there, and each names tests that exist; whichever name a row, the list knows"
    listed = rows()
    want = [f'1.{n}' for n in range(1, 17)] + [f'2.{n}' for n in range(1, 24)] + [f'3.{n}' for n in range(1, 11)]
    assert [*listed] == want
    for number, (what, found) in listed.items():
        assert what and found, number
        for test in found.split():
            file, name = test.split('::')
            assert name.startswith('test_') and name in defined(f'{file}.py'), f'row {number}: {test}'
    for file in ('test_faults', 'test_trust'):
        tree = ast.parse((ROOT / 'tests' / f'{file}.py').read_text())
        said = {n.name: ast.get_docstring(n) or '' for n in tree.body if isinstance(n, ast.FunctionDef)}
        found = {name: m[1] for name, text in said.items() if (m := re.match(r'row (\d\.\d+)', text))}
        assert len(found) > 5
        for name, number in found.items():
            assert f'{file}::{name}' in listed[number][1].split(), f'row {number} does not list {file}::{name}'


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


def test_row_2_10_memory(tmp_path, monkeypatch, capsys):
    "row 2.10: a run that the machine's memory cannot hold is refused before anything is made; one that fits is not"
    monkeypatch.setattr('mow_nb.store.journal.memory', lambda: 10**6)
    assert main(['train', 'toy', '--root', str(tmp_path / 'runs'), '--quiet']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'GiB of memory' in error and not (tmp_path / 'runs' / 'toy').exists()
    monkeypatch.setattr('mow_nb.store.journal.memory', lambda: 10**12)
    assert main(['train', 'toy', '--root', str(tmp_path / 'runs'), '--quiet']) == 0


def test_row_2_13_a_run_that_vanishes(run, monkeypatch, capsys):
    "row 2.13: the directory is removed while an evaluation goes on: the scores are printed, then one line, exit 6"
    evaluate_agent = share.evaluate_agent

    def removed(*args):
        record = evaluate_agent(*args)
        shutil.rmtree(run)
        run.write_text('a file in its place')
        return record

    monkeypatch.setattr(share, 'evaluate_agent', removed)
    assert main(['evaluate', str(run), '--episodes', '1', '--max-steps', '2']) == 6
    told = capsys.readouterr()
    assert 'track-sea' in told.out and told.err.count('\n') == 1, told


@pytest.mark.parametrize('number', ['EROFS', 'ENOSPC', 'EDQUOT', 'EFBIG', 'EIO', 'EACCES'])
@pytest.mark.parametrize('command', ['report', 'evaluate', 'train'])
def test_row_2_14_kinds_of_disks(command, number, run, tmp_path, monkeypatch, capsys):
    "row 2.14: a disk that cannot be written, has no inodes or is at its quota: one line, exit 6, nothing half-written"
    new = tmp_path / 'other' / 'new'  # a replay without a step may be there, of which a second call makes nothing
    files = lambda: (p for p in tmp_path.rglob('*') if p.is_file() and p.name != '.lock')
    content = lambda: {p: p.read_bytes() for p in files() if new / 'replay' not in p.parents}
    before = content()
    real, code = os.open, getattr(errno, number)

    def refuse(path, flags, *args, **kw):
        if flags & os.O_EXCL:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *args, **kw)

    monkeypatch.setattr(os, 'open', refuse)
    monkeypatch.setattr('mow_nb.view.report.page', lambda summary: 'x')
    words = dict(
        report=['report', run],
        evaluate=['evaluate', run, '--episodes', 1, '--max-steps', 2],
        train=['train', 'toy', '--name', 'new', '--root', tmp_path / 'other', '--quiet'],
    )[command]
    assert main([*map(str, words)]) == 6
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and os.strerror(code) in error, error
    assert content() == before and not has_data(new)


def test_row_2_16_a_comma_at_the_end(tmp_path, capsys):
    "row 2.16: `--tasks a,b,` trains two tasks, and the report knows them"
    words = ['train', 'toy', '--tasks', 'track-sea,reach-sea,', '--name', 'x', '--root', str(tmp_path), '--quiet']
    assert main(words) == 0, capsys.readouterr().err
    assert main(['report', str(tmp_path / 'x')]) == 0, capsys.readouterr().err
    text = (tmp_path / 'x' / 'report.html').read_text()
    assert 'track-sea' in text and 'reach-sea' in text


def test_row_2_17_import(tmp_path, monkeypatch, capsys):
    "row 2.17: a run with a task of its own is evaluated with `--import`, and refused without"
    (tmp_path / 'my_own_game.py').write_text(
        'import odd\nfrom mow_nb.envs.tasks import register\nregister("my own game", odd.Own, n_actions=3)\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ['--tasks', 'my own game,track-sea', '--model.vae.size', '32', '--name', 'x', '--quiet']
    assert main(['train', 'toy', '--import', 'my_own_game', *words]) == 0, capsys.readouterr().err
    short = ['--episodes', '1', '--max-steps', '2']
    assert main(['evaluate', 'x', '--import', 'my_own_game', *short]) == 0, capsys.readouterr().err
    tasks._USER.pop('my own game')
    capsys.readouterr()
    assert main(['evaluate', 'x', *short]) == 2
    assert '--import' in capsys.readouterr().err


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


def test_row_3_5_names_are_text(run):
    "row 3.5: names of tasks that are tags of HTML are shown as text in a report"
    summary = gather(run)
    bad = '<script>alert(1)</script>'
    hurt = tuple(replace(t, name=bad + str(n)) for n, t in enumerate(summary.tasks))
    text = page(replace(summary, tasks=hurt, rows=[], groups=None, pictures=None, records=[], random_play=None))
    assert '<script>alert' not in text and '&lt;script&gt;alert' in text
    check_page(text)


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


@pytest.mark.parametrize('words', [[], ['--help'], ['--version'], ['tasks', 'track-sea']])
def test_imports_come_first(words, tmp_path, monkeypatch, capsys):
    "neighbours of row 2.17: `--import` may stand before the command, or before none"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'fine.py').write_text('')
    assert main(['--import', 'fine', *words]) == 0
    assert capsys.readouterr().out


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


def test_training_asks_environments_of_ones_own(tmp_path, capsys, monkeypatch):
    "`train` checks them before anything is written: what is fatal ends it, what is odd is said"
    monkeypatch.setattr(Run, 'phases', lambda self, journal: None)
    monkeypatch.setattr(Run, 'finish', lambda self: None)
    blind = type('Blind', (OneArray,), dict(reset=lambda self, seed=None, options=None: (np.ones(4), {})))
    config = lambda: changed(preset('toy'), {'tasks': 'track-sea,own'})
    register('own', blind, n_actions=3)
    with pytest.raises(EnvError, match="task 'own': an environment needs pictures"):
        train(config(), 'blind', tmp_path, quiet=True)
    assert not (tmp_path / 'blind' / 'config.toml').exists()
    register('own', type('Still', (OneArray,), dict(look=lambda self: np.zeros((64, 64, 3), np.uint8))), n_actions=3)
    train(config(), 'still', tmp_path, quiet=True)
    assert "task 'own': picture: all pictures are one colour" in capsys.readouterr().err


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
