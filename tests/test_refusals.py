"""One line where a traceback would stand, and nothing half-written: tables of what people type, name and bring along.
'group 2' is the name of these faults; own tasks have their tables in test_faults.py. Everything goes through the
program itself, without training."""

import json
import os
import resource
import shutil
import sys

import numpy as np
import pytest
import torch
from fuzz import digest, signed

from mow_nb.core import CheckpointError, DiskError, MowError, NonFiniteError
from mow_nb.store import checkpoint
from mow_nb.store.presets import changed, flat, preset
from mow_nb.store.run_folder import read_config, to_toml
from mow_nb.tools.cli import main
from mow_nb.training.clustering import analyse
from mow_nb.training.run import train
from mow_nb.training.share import from_pretrained, load, save_pretrained

TOY = flat(preset('toy'))


class Begun(Exception):
    "Training would begin now"


@pytest.fixture
def untrained(monkeypatch):
    "Whatever gets as far as training is accepted, and goes no further"

    def begun(*args, **kw):
        raise Begun

    monkeypatch.setattr('mow_nb.training.run.Run', begun)


def content(folder):
    "Every file of a directory, with what is in it; Python may keep what it has compiled"
    files = (p for p in sorted(folder.rglob('*')) if p.is_file() and '__pycache__' not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def refused(tmp_path, capsys):
    "Calls the program: it must end with this code and one line, and leave no file behind"

    def ask(*words, code, says='', folder=tmp_path):
        before = content(folder)
        assert main([*map(str, words)]) == code, (words, capsys.readouterr())
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and len(error) < 400, error
        assert says in error, error
        after = content(folder)
        assert {k: v for k, v in after.items() if not k.endswith('.lock')} == {
            k: v for k, v in before.items() if not k.endswith('.lock')
        }, words

    return ask


# ---- options

NUMBERS = [name for name, value in TOY.items() if type(value) in (int, float)]


@pytest.mark.parametrize('name', NUMBERS)
def test_group_2_numbers(name, untrained, refused, tmp_path):
    "group 2, options: no field takes infinity, NaN, numbers of 400 and 5,000 digits, or one below zero"
    for text in ('inf', 'nan', '1' + '0' * 400, '9' * 5000, '-7'):
        refused('train', 'toy', f'--{name}={text}', '--root', tmp_path, code=2, says=name.rpartition('.')[2])


@pytest.mark.parametrize(
    'name, text',
    [
        ('model.bins', '1'),
        ('agent.bins', '1'),
        ('model.dynamics.tau', '0'),
        ('model.dynamics.dropout', '1'),
        ('agent.gamma', '1.5'),
        ('model.dynamics.heads', '7'),
        ('model.vae.size', '33'),
        ('train.env_steps', '3'),
        ('train.batch_size', '999999999'),
        ('train.horizon', '0'),
        ('model.dynamics.width', '1000000'),
        ('model.dynamics.experts', '100000'),
        ('tasks', 'track-see'),
        ('tasks', ','),
        ('tasks', 'track-sea,track-sea'),
        ('protocol', 'atari'),
        ('train.device', 'gpu'),
        ('train.precision', 'float3'),
        ('cluster.method', 'magic'),
        ('cluster.n', '9'),
        ('nonsense', '1'),
    ],
)
def test_group_2_options(name, text, untrained, refused, tmp_path):
    "group 2, options: values that cannot be, alone or with the others"
    refused('train', 'toy', f'--{name}={text}', '--root', tmp_path, code=2)


@pytest.mark.parametrize(
    'words',
    [
        ['--tasks', 'track-sea'],
        ['--tasks', ' track-sea , track-night,'],
        ['--train.threads', '1'],
        ['--train.env-steps', '50'],
    ],
)
def test_group_2_options_taken(words, untrained, tmp_path):
    "group 2, options: what can only mean one thing is taken; one task with preset `toy` is one cluster"
    with pytest.raises(Begun):
        main(['train', 'toy', *words, '--root', str(tmp_path)])


@pytest.mark.parametrize(
    'text, says',
    [
        ('a = ' * 3, 'not a TOML file'),
        ('a = ' + '[' * 5000, 'not a TOML file'),
        ('a.' * 3000 + 'b = 1', 'config.toml'),
        ('seed = ' + '9' * 5000, 'config.toml'),
        ('seed = "x"', 'seed'),
        ('seed = inf', 'seed'),
        ('[train]\nwarmup = {a = 1}', 'train.warmup'),
        ('train = 7', 'train'),
        ('nothing = 1', 'nothing'),
        ('\x00', 'not a TOML file'),
    ],
)
def test_group_2_configs(text, says, run, refused):
    "group 2, options: a config.toml that somebody has edited, or a disk has: exit 3 wherever it is read"
    (run / 'config.toml').write_text(text)
    for command in ('evaluate', 'report'):
        refused(command, run, code=3, says=says, folder=run)
    assert main(['check', str(run)]) == 3


def test_group_2_missing_keys(run, refused, capsys):
    "group 2, options: keys that vanished from config.toml are noticed, as the checkpoint knows them"
    text = (run / 'config.toml').read_text()
    (run / 'config.toml').write_text(text.replace('stem = ', '# stem = '))
    assert read_config(run).model.vae.stem != preset('toy').model.vae.stem  # what is missing has its default
    refused('evaluate', run, code=3, says='does not belong to config.toml', folder=run)


# ---- paths


def test_group_2_roots(untrained, refused, tmp_path):
    "group 2, paths: roots that are files, cannot be made, or have names of 300 letters"
    (tmp_path / 'file').write_text('')
    for root in (tmp_path / 'file', tmp_path / 'file' / 'below', tmp_path / ('x' * 300), '/proc/no/where', '/dev/null'):
        refused('train', 'toy', '--root', root, code=6, says=str(root)[:40])
        for command in ('evaluate', 'report', 'explore', 'check'):
            refused(command, 'x', '--root', root, code=2, says='no run in')


@pytest.mark.parametrize('name', ['.', '..', 'a/b', '/a', '-x', 'x' * 65, 'two\nlines', 'a b', '\x00', 'ä'])
def test_group_2_run_names(name, untrained, refused, tmp_path):
    "group 2, paths: names that are no names"
    refused('train', 'toy', f'--name={name}', '--root', tmp_path, code=2)
    for command in ('evaluate', 'report', 'check'):
        refused(command, f'./{name}' if name.startswith('-') else name, '--root', tmp_path, code=2)


def test_group_2_a_path_for_a_name(run, monkeypatch, capsys):
    "group 2, paths: a run's directory in place of its name, however it is written; and the example"
    monkeypatch.chdir(run.parent)
    for word in ('x', './x', './x/', str(run), f'{run}/', '../' + run.parent.name + '/x'):
        assert main(['check', word, '--quick', '--root', '.']) == 0, word
    meant = []
    monkeypatch.setattr('mow_nb.view.report.write_report', lambda path, file: meant.append(path) or file)
    monkeypatch.setattr('mow_nb.training.share.evaluate', lambda path, show, keep, **kw: meant.append(path))
    for command in ('report', 'evaluate'):
        assert main([command, 'example']) == 0, capsys.readouterr().err
    assert len(meant) == 2 and all((path / 'config.toml').exists() and path.name == 'example' for path in meant)


def test_group_2_scores_first(run, monkeypatch, capsys):
    "group 2, paths: where a record cannot be written, the scores have been printed"
    shutil.rmtree(run / 'eval')
    (run / 'eval').write_text('in the way')
    assert main(['evaluate', str(run), '--episodes', '1', '--max-steps', '2']) == 6
    told = capsys.readouterr()
    assert 'track-sea' in told.out and told.err.count('\n') == 1


@pytest.mark.parametrize('command', ['report', 'evaluate'])
def test_group_2_small_files_only(command, run, capsys, monkeypatch):
    "group 2, paths: where files may not grow (EFBIG, as with a quota), one line and nothing half-written"
    monkeypatch.setattr('mow_nb.view.report.page', lambda summary: 'x' * 1000)
    before, limits = content(run), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        code = main([command, str(run), *(['--episodes', '1', '--max-steps', '2'] if command == 'evaluate' else [])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert code == 6 and error.count('\n') == 1, error
    assert content(run) == before


def test_group_2_full_disk_while_training(tmp_path, capsys):
    "group 2, paths: the same while a run is going, outside of the checkpoint writer: exit 6"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code = main(['train', 'toy', '--name', 'x', '--root', str(tmp_path), '--quiet'])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert code == 6 and error.count('\n') == 1, error


@pytest.mark.parametrize('spare', range(4, 16, 4))
def test_group_2_few_files_open(spare, tmp_path, capsys):
    "group 2, paths: `ulimit -n` too small for a ring of files per task: one line"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) + spare, limits[1]))
    try:
        code = main(['train', 'toy', '--tasks', 'pocket', '--name', 'x', '--root', str(tmp_path), '--quiet'])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    error = capsys.readouterr().err
    assert code == 6 and error.count('\n') == 1 and 'Too many open files' in error, error


# ---- resume


@pytest.mark.parametrize(
    'name, value',
    [
        ('train.env_steps', 60),
        ('train.threads', 2),
        ('train.device', 'cpu'),
        ('train.precision', 'bfloat16'),
        ('train.model_lr', 1e-5),
        ('train.log_every', 3),
        ('train.save_every', 5),
        ('eval.episodes', 9),
        ('tasks', 'track-night , reach-night,track-sea,'),
    ],
)
def test_group_2_resume_taken(name, value, run, untrained):
    "group 2, resume: more steps, other threads, device, precision, rates, and tasks that differ by a blank"
    with pytest.raises(Begun):
        train(changed(preset('toy'), {name: value}), 'x', run.parent, resume=True, quiet=True)


@pytest.mark.parametrize(
    'name, value',
    [
        ('train.env_steps', 30),
        ('seed', 1),
        ('tasks', 'track-sea,track-night'),
        ('tasks', 'track-night,track-sea,reach-night'),
        ('agent.gamma', 0.5),
        ('model.dynamics.width', 128),
        ('train.batch_size', 3),
    ],
)
def test_group_2_resume_refused(name, value, run, untrained, refused):
    "group 2, resume: what would be another run; nothing is written"
    refused('train', 'toy', f'--{name}={value}', '--name', 'x', '--root', run.parent, '--resume', code=2, folder=run)


# ---- foreign directories


def manifest(folder, change):
    "Rewrite a manifest, with a right sum"
    body = json.loads((folder / 'manifest.json').read_text())['body']
    change(body)
    (folder / 'manifest.json').write_bytes(signed(body))


def newest(run):
    return checkpoint.checkpoints(run / 'checkpoints')[0]


def elsewhere(name):
    def damage(run):
        secret = run.parent / 'secret.json'
        secret.write_text('{}')
        word = str(secret) if name == 'absolute' else name
        for path in checkpoint.checkpoints(run / 'checkpoints'):
            manifest(path, lambda b: b['files'].update({word: dict(size=2, sha256=digest(b'{}')['sha256'])}))

    return damage


def tensors(change):
    def damage(run):
        found = checkpoint.load(run / 'checkpoints')
        parts = dict(found.tensors)
        change(parts, found.extra)
        shutil.rmtree(run / 'checkpoints')
        checkpoint.save(run / 'checkpoints', found.step, parts, found.extra)

    return damage


def replaced(path, make):
    def damage(run):
        for p in run.glob(path):
            shutil.rmtree(p) if p.is_dir() else p.unlink()
            make(p)

    return damage


DEEP = '[' * 100_000
FOREIGN = {
    'a name outside': elsewhere('../../secret.json'),
    'an absolute name': elsewhere('absolute'),
    'a size of 10**15': lambda run: manifest(newest(run), lambda b: b['files']['extra.json'].update(size=10**15)),
    'a list of files': lambda run: manifest(newest(run), lambda b: b.update(files=[])),
    'a step in words': lambda run: manifest(newest(run), lambda b: b.update(step='one')),
    'deep extra': lambda run: [(p / 'extra.json').write_text(DEEP) for p in run.glob('checkpoints/step-*')],
    'deep manifest': lambda run: [(p / 'manifest.json').write_text(DEEP) for p in run.glob('checkpoints/step-*')],
    'a tensor missing': tensors(lambda t, x: t.pop('world.embed')),
    'a tensor misshapen': tensors(lambda t, x: t.update({'world.embed': torch.zeros(2, 2)})),
    'a tensor of numbers too large': tensors(lambda t, x: t.update({'world.embed': t['world.embed'] + torch.inf})),
    'labels of nobody': tensors(lambda t, x: x.update(labels=[0, 5, 9])),
    'labels in words': tensors(lambda t, x: x.update(labels='010')),
    'no labels': tensors(lambda t, x: x.pop('labels')),
    'config as a pipe': replaced('config.toml', os.mkfifo),
    'metrics as a pipe': replaced('metrics.jsonl', os.mkfifo),
    'a link to the outside': replaced('metrics.jsonl', lambda p: p.symlink_to('/etc/hostname')),
    'a link for a directory': replaced('checkpoints', lambda p: p.symlink_to('/etc')),
    'an analysis as a directory': replaced('analysis/clusters.npz', os.mkdir),
}


@pytest.mark.parametrize('kind', FOREIGN)
def test_group_2_foreign(kind, run, capsys):
    "group 2, foreign directories: readers answer with one line and exit 3 or 4, and `mow check` finds it"
    FOREIGN[kind](run)
    before = content(run)
    code = main(['evaluate', str(run), '--episodes', '1', '--max-steps', '1'])
    error = capsys.readouterr().err
    lines = error.splitlines()
    assert code in (0, 3, 4) and (code == 0 or 'mow: ' in lines[-1]), error
    assert code or kind in ('an analysis as a directory', 'a size of 10**15', 'a list of files', 'a step in words')
    assert main(['check', str(run)]) == 3
    assert code == 0 or content(run) == before


def test_group_2_wide_agent(run, tmp_path):
    "group 2, foreign directories: an agent whose config asks for 160 GB is refused before anything is allocated"
    save_pretrained(load(run), read_config(run), tmp_path / 'agent')
    text = to_toml(changed(preset('toy'), {'model.dynamics.width': 100_000, 'model.dynamics.heads': 2}))
    (tmp_path / 'agent' / 'config.toml').write_text(text)
    checkpoint.write_manifest(tmp_path / 'agent', only=['agent.safetensors', 'config.toml'])
    with pytest.raises(MowError) as stop:
        from_pretrained(tmp_path / 'agent')
    assert '\n' not in str(stop.value)


def test_group_2_flipped_agents(run, tmp_path):
    "group 2, foreign directories: one bit of a shared agent, anywhere in its files: 60 of 60 are refused"
    save_pretrained(load(run), read_config(run), tmp_path / 'agent', small=True)
    rng, files = np.random.default_rng(0), sorted((tmp_path / 'agent').iterdir())
    for n in range(60):
        file = files[n % len(files)]
        raw = bytearray(kept := file.read_bytes())
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        file.write_bytes(raw)
        with pytest.raises(CheckpointError):
            from_pretrained(tmp_path / 'agent')
        file.write_bytes(kept)
    assert from_pretrained(tmp_path / 'agent').updates == 24


@pytest.mark.parametrize('name', ['.report', '.metrics', '.config', '.step-000000024.json', '.lock', '.tmp-config'])
def test_group_2_no_fixed_names(name, run, tmp_path, capsys):
    "group 2, foreign directories: a link under the name of a temporary file, or of the lock, is not written through"
    target = tmp_path / 'target'
    target.write_text('mine')
    for folder in (run, run / 'eval'):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    for words in (['report', run], ['evaluate', run, '--episodes', 1, '--max-steps', 1]):
        assert main([*map(str, words)]) == 3
    with pytest.raises((CheckpointError, DiskError)):
        train(preset('toy'), 'x', run.parent, resume=True, quiet=True)
    assert target.read_text() == 'mine'


# ---- neighbours


def test_group_2_nan_while_grouping():
    "group 2: a gradient that is not finite while tasks are grouped is named by its task"
    R = torch.eye(3)
    R[1, 1] = torch.nan
    with pytest.raises(NonFiniteError, match='^the gradient of task track-sea is not finite$'):
        analyse(['reach-sea', 'track-sea', 'track-night'], dict(projection=R))


def test_group_2_own_tasks_are_said_to_be(run, refused):
    "group 2: a run with tasks of its own is not evaluated without them, and the line says how"
    text = (run / 'config.toml').read_text()
    (run / 'config.toml').write_text(text.replace('reach-night', 'my game'))
    refused('evaluate', run, code=2, says='--import MODULE', folder=run)


@pytest.mark.parametrize('gl', ['crayon', 'EGLX', '0'])
def test_group_2_gl(gl, monkeypatch):
    "group 2: MUJOCO_GL set to nonsense is what the line talks about"
    from mow_nb.envs.metaworld import choose_gl

    monkeypatch.setenv('MUJOCO_GL', gl)
    with pytest.raises(MowError, match='MUJOCO_GL=.* cannot draw: choose egl, osmesa or glfw, or unset it'):
        choose_gl()


def test_group_2_import(refused, tmp_path, monkeypatch):
    "group 2: --import of a module that is not there, or fails, is one line"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'sour.py').write_text('1 / 0')
    refused('tasks', '--import', 'no_such_module', code=2, says='no_such_module')
    refused('tasks', '--import', 'sour', code=2, says='ZeroDivisionError')
