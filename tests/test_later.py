"""A task that comes or goes, killed on the way: the run before or the run after, and either trains on.

The chapter of this ([69](../nbs/69_later.ipynb)) kills at a few moments; here are all of them for a task that goes,
more of them for one that comes, and what follows.
"""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from mow_nb.core import ConfigError
from mow_nb.store.checkpoint import weights_hash
from mow_nb.store.presets import changed, preset
from mow_nb.store.run_folder import read_config
from mow_nb.store.task_rows import read_state
from mow_nb.training.check import check_run
from mow_nb.training.later import add_task, drop_task
from mow_nb.training.run import Run, train

CONFIG = changed(preset('toy'), {'agent.entropy_target': 0.2, 'model.task_weight': 1.0, 'eval.episodes': 1})
CHANGES = ('link', 'mkdir', 'rename', 'replace', 'unlink', 'rmdir', 'fsync')


class Killed(BaseException):
    "The power fails; nobody catches it"


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run of three tasks in two clusters; not to be changed"
    return train(CONFIG, 'run', root=tmp_path_factory.mktemp('runs'), quiet=True)


def come(path):
    add_task(path, 'reach-sea', max_unexplained=9.0, steps=2, quiet=True)  # into a cluster that is there


def go(path):
    drop_task(path, 'track-night')


def killed_at(n, work):
    "Number of changes of the disk that were tried, when all after the first n fail"
    real, count = {name: getattr(os, name) for name in CHANGES}, 0

    def stand_in(name):
        def call(*args, **how):
            nonlocal count
            count += 1
            if count > n:
                raise Killed
            return real[name](*args, **how)

        return call

    try:
        for name in CHANGES:
            setattr(os, name, stand_in(name))
        work()
    except Killed:
        pass
    finally:
        for name in CHANGES:
            setattr(os, name, real[name])
    return count


def looks(path):
    "What a run is: config, tensors, plain data, replay, what is kept of its analysis and evaluations"
    state = read_state(path)
    parts = ('replay', 'analysis', 'eval')
    files = sorted(p for part in parts for p in (path / part).rglob('*') if p.is_file() and p.suffix != '.npz')
    bytes_of = {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    return state.config, weights_hash(state.tensors), json.dumps(state.extra), bytes_of


def damaged(path):
    return [str(v) for v in check_run(path) if not v.whole]


@pytest.mark.parametrize('work', [come, go])
def test_killed_on_the_way(run, work, tmp_path):
    "Whatever the moment, the run is one of two, whole, and the next attempt succeeds"
    whole = shutil.copytree(run, tmp_path / 'whole')
    before = looks(whole)
    total = killed_at(10**9, lambda: work(whole))
    after, kinds = looks(whole), []
    # a task that comes is played and placed before its last changes of the disk: each try takes a second or two
    moments = sorted({0, total // 2, *range(0 if work is go else total - 40, total, 3), total - 1})
    for n in moments:
        path = shutil.copytree(run, tmp_path / 'one' / 'whole')
        killed_at(n, lambda: work(path))
        kinds.append(looks(path) == after)
        assert kinds[-1] or looks(path) == before, f'neither of the two after {n} of {total} changes'
        assert not damaged(path), f'after {n} of {total} changes'
        if n == moments[len(moments) // 2] and not kinds[-1]:
            work(path)  # what the kill has left is in nobody's way
            assert looks(path) == after
            assert [p.name for p in path.parent.iterdir()] == ['whole']
        shutil.rmtree(tmp_path / 'one')
    assert not kinds[0] and kinds[-1] and kinds == sorted(kinds)  # once it has happened it has happened


@pytest.mark.parametrize('work', [come, go])
def test_goes_on_exactly(run, work, tmp_path):
    "Trained on in one go, or interrupted in the middle: the same weights to the last bit"
    path = shutil.copytree(run, tmp_path / 'run')
    work(path)
    config = read_config(path)
    if work is go:  # a finished run stays finished
        config = changed(config, {'train.env_steps': 52})
    twin = shutil.copytree(path, tmp_path / 'twin')
    train(config, 'run', root=tmp_path, resume=True, quiet=True)
    steps = Run.steps

    def nervous(self, *args):
        for n in steps(self, *args):
            if n == 46:
                self.interrupt.asked = 2
            yield n

    Run.steps = nervous
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, 'twin', root=tmp_path, resume=True, quiet=True)
    finally:
        Run.steps = steps
    train(config, 'twin', root=tmp_path, resume=True, quiet=True)
    one, two = read_state(path), read_state(twin)
    assert one.extra['updates'] > read_state(run).extra['updates']
    assert weights_hash(one.tensors) == weights_hash(two.tensors)
    assert one.extra['replay'] == two.extra['replay'] and not damaged(path)


def test_report_and_explorer_read_it(run, tmp_path):
    "Before the run has trained on, after it, and without a task"
    from mow_nb.view.report import write_report
    from mow_nb.view.summary import gather, sentence
    from mow_nb.view.views import clusters, progress, rollouts, routing

    def views(path):
        summary = gather(path)
        for view in (clusters(), routing(), rollouts(), progress()):
            view.read(summary)
        assert 'reach-sea' in write_report(path).read_text()
        return summary

    path = shutil.copytree(run, tmp_path / 'run')
    come(path)
    assert 'since reach-sea came' in sentence(views(path))[1]
    train(read_config(path), 'run', root=tmp_path, resume=True, quiet=True)
    assert [t.name for t in views(path).tasks][-1] == 'reach-sea'
    go(path)
    summary = views(path)
    assert len(summary.tasks) == 3 == len(summary.records[-1]['episodes']) and summary.random_play


def test_stopped_run_and_several_at_once(run, tmp_path):
    "A run stopped in its play takes two tasks at once and lets two go; the lock, the warm-up and other configs refuse"
    path = shutil.copytree(run, tmp_path / 'run')
    records = add_task(path, 'reach-sea,reach-paper', env_steps=60, max_unexplained=0.0, steps=1, quiet=True)
    state = read_state(path)
    assert state.extra['labels'][3:] == [2, 3] and [r['own'] for r in records] == [True, True]
    assert np.array_equal(state.extra['spans'][3:], [[24, None]] * 2)
    drop_task(path, 'reach-sea, track-night')
    left = read_state(path)
    assert [t.name for t in left.tasks] == ['reach-night', 'track-sea', 'reach-paper']
    assert len(set(left.extra['labels'])) == max(left.extra['labels']) + 1 and not damaged(path)
    text = (path / 'config.toml').read_text()
    (path / 'config.toml').write_text(text.replace('gamma = 0.985', 'gamma = 0.9'))
    with pytest.raises(Exception, match='does not belong to config.toml'):
        drop_task(path, 'track-sea')
    (path / 'config.toml').write_text(text)
    for wrong in ('track-night', 'reach-night,reach-night', 'reach-night,track-sea,reach-paper', ' , '):
        with pytest.raises(ConfigError):
            drop_task(path, wrong)
    assert looks(path)[1] == weights_hash(left.tensors)
