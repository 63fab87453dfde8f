"""Nothing is lost, and nothing is trained on wrongly, without a word.

Each test begins with the number of what was once seen to go wrong: 'row 1.7' is the seventh of the faults that cost
somebody work or spoilt a result in silence, 'group 2' are the tracebacks where one line belongs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import odd
import pytest
import torch

from mow_nb.core import CheckpointError, ConfigError, DiskError, EnvError, NonFiniteError, np_rng
from mow_nb.envs import tasks
from mow_nb.envs.tasks import register, tasks_of
from mow_nb.envs.vector import Pool, make_env
from mow_nb.envs.workers import IsolatedEnv
from mow_nb.eval.evaluation import load_records, play
from mow_nb.records import Batch
from mow_nb.store import checkpoint
from mow_nb.store.journal import read_metrics
from mow_nb.store.presets import changed, preset
from mow_nb.store.run_folder import lock_run
from mow_nb.tools.cli import main
from mow_nb.training.learner import Learner
from mow_nb.training.run import Run, train
from mow_nb.training.share import evaluate
from mow_nb.view.explorer import ready_notebook

HERE = Path(__file__).resolve().parent
IDLE = np.eye(18, dtype=np.float32)[:1]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    "Tasks that a test registers are gone after it"
    monkeypatch.setattr(tasks, '_USER', dict(tasks._USER))


def pool_of(make, n=3, name='own', **kw):
    register(name, make, n_actions=n)
    return Pool(tasks_of(name), size=32, **kw)


# ---- section 1: environments


@pytest.mark.parametrize('apart', [False, True])
def test_row_1_7_only_the_worker_says_fault(apart):
    "row 1.7: a key `fault` in an environment's own info means nothing, so its episodes count and an evaluation ends"
    pool = pool_of(IsolatedEnv(odd.FaultInInfo) if apart else odd.FaultInInfo)
    played = play(lambda obs, step: IDLE, pool, 2, 100)
    assert [(p.ret, p.length, p.cut) for p in played['own']] == [(9.0, 9, False)] * 2
    pool.close()


def test_row_1_7_an_evaluation_ends(monkeypatch):
    "row 1.7, the kind: where every episode breaks, an evaluation stops with one line"
    pool = pool_of(odd.Own)
    real = pool.envs[0].recv
    monkeypatch.setattr(pool.envs[0], 'recv', lambda: (*real()[:3], True, dict(life_lost=False, fault='crash')))
    with pytest.raises(EnvError, match=r"^task 'own': 21 episodes of its evaluation broke, 0 came to an end$"):
        play(lambda obs, step: IDLE, pool, 1, 100)


def test_row_1_9_the_same_object_twice():
    "row 1.9: a function that gives the same environment twice is found out before the second user takes a step"
    same = odd.Own()
    pool = pool_of(lambda: same)
    with pytest.raises(ConfigError, match="^task 'own': its environment is one that is already in use"):
        Pool(pool.tasks, purpose='evaluation')
    wrapped = odd.Silent()
    pool_of(lambda: gym.wrappers.TimeLimit(wrapped, 5), name='wrapped')
    with pytest.raises(ConfigError, match='already in use'):
        Pool(tasks_of('wrapped'))


def test_row_1_12_a_deaf_environment(capsys):
    "row 1.12: an environment that ignores its seed loses the open episode, in one line, and the run goes on"
    pool = pool_of(odd.Deaf)
    for _ in range(12):
        pool.step(IDLE)
    state, again = pool.state_dict(), Pool(pool.tasks, size=32)
    again.load_state_dict(state)
    said = capsys.readouterr().err
    assert (
        said.count('\n') == 1
        and said.startswith("task 'own': replaying its open episode gave a return of")
        and 'given up' in said
    )
    assert (again.episode, again.acts, again.lost) == ([2], [[]], [1]) and again.finished[-1].broken
    again.step(IDLE)


def test_row_1_12_another_picture(capsys, monkeypatch):
    "row 1.12, the kind: the rewards agree and the picture does not"
    pool = pool_of(odd.Own)
    for _ in range(3):
        pool.step(IDLE)
    state = pool.state_dict()
    monkeypatch.setattr(odd.Own, 'look', lambda self: odd.COLOUR + self.t + 1)
    Pool(pool.tasks, size=32).load_state_dict(state)
    assert 'led to another picture' in capsys.readouterr().err


def test_row_1_15_close_raises(capsys):
    "row 1.15: what cannot be closed is said on stderr, and all others are closed"
    closed = []
    register('stuck', odd.StuckDoor, n_actions=3)
    register('last', odd.variant('Last', close=lambda self: closed.append(1)), n_actions=3)
    Pool(tasks_of('stuck,last'), size=32).close()
    assert capsys.readouterr().err == "task 'stuck': closing its environment failed (OSError: stuck)\n" and closed == [
        1
    ]


def test_row_1_15_half_a_pool_is_closed():
    "row 1.15, the kind: when the second environment cannot be made, the first is closed"
    closed = []
    register('first', odd.variant('First', close=lambda self: closed.append(1)), n_actions=3)
    register('second', odd.Silent, n_actions=5)
    with pytest.raises(ConfigError, match='n_actions=5'):
        Pool(tasks_of('first,second'), size=32)
    assert closed == [1]


# ---- group 2: own tasks


@pytest.mark.parametrize('apart', [False, True], ids=['here', 'apart'])
def test_group_2_taken(apart):
    "group 2: pictures, rewards and infos that can only mean one thing are taken, here and in a worker"
    for make in odd.TAKEN:
        env = make_env(register('own', IsolatedEnv(make) if apart else make, n_actions=3), 32)
        (first, _), (second, *rest) = env.reset(0), env.step(IDLE[0])
        for obs in (first, second):
            assert obs.shape == (32, 32, 3) and obs.dtype == np.uint8, make
        assert rest[:3] == [1.0, False, False] and rest[3] == dict(life_lost=False), make
        env.close()


@pytest.mark.parametrize('make, words', odd.REFUSED, ids=lambda x: getattr(x, '__name__', ''))
def test_group_2_refused(make, words):
    "group 2: what could mean two things, or nothing, ends in one line that names the task; exit code 5"
    env = make_env(register('own', make, n_actions=3), 32)
    with pytest.raises(EnvError) as stop:
        env.reset(0)
        env.step(IDLE[0])
    line = str(stop.value)
    assert line.startswith("task 'own': ") and words in line and '\n' not in line and stop.value.exit_code == 5


@pytest.mark.parametrize(
    'make, words',
    [
        (lambda: None, 'returned nothing'),
        (lambda: out_of_order(), 'cannot be made (NameError'),  # noqa: F821
        ('NoModule-v0', 'there_is_no_such_module'),
        ('CartPole-v9', 'cannot be made'),
        ('no such id', 'cannot be made'),
        (lambda: sys.exit(3), 'SystemExit'),
    ],
    ids=range(6),
)
def test_group_2_not_made(make, words):
    "group 2: factories without a return, with an error or a way out, ids without their module"
    with pytest.raises(ConfigError) as stop:
        make_env(register('own', make, n_actions=3), 32)
    assert words in str(stop.value) and '\n' not in str(stop.value) and str(stop.value).startswith("task 'own': ")


@pytest.mark.parametrize(
    'make', ['Silent-v0', IsolatedEnv('odd:Silent-v0'), IsolatedEnv('ALE/Pong-v5')], ids=['here', 'apart', 'atari']
)
def test_group_2_by_id(make):
    "group 2: an id whose class takes no `render_mode`, one that a script registered, and Atari's, in a worker too"
    env = make_env(register('own', make, n_actions=6 if 'ALE' in str(make) else 3), 32)
    assert env.reset(0)[0].shape == (32, 32, 3)
    env.close()


@pytest.mark.parametrize(
    'name',
    ['pocket', 'mt10', 'mt1:reach-v3', 'Pong', 'a,b', ' a', 'a ', '', 'two\nlines', '../up', '-x', 'x' * 65, 7, None],
)
def test_group_2_names(name):
    "group 2: names that mean something else or cannot be reached"
    with pytest.raises(ConfigError) as stop:
        register(name, odd.Own, n_actions=3)
    assert '\n' not in str(stop.value)


def test_group_2_actions_are_read():
    "group 2: without n_actions the space is read; an instance for a class, or a space that is none, is one line"
    assert register('own', odd.Silent).n_actions == register('own', lambda: odd.Silent()).n_actions == 3
    assert register('own', 'Pendulum-v1').d_continuous == 1 and register('own', IsolatedEnv(odd.Silent)).n_actions == 3
    for make in (odd.Silent(), odd.Own, lambda: None, None):
        with pytest.raises(ConfigError, match="task 'own'"):
            register('own', make)


# ---- section 1: readers beside a trainer

SAVER = '''
import sys, torch
from mow_nb.store.checkpoint import save
torch.set_num_threads(1)
for n in range(10**6):
    save(sys.argv[1], 7 + n // 8 % 2, dict(w=torch.full((300_000,), float(n))), dict(n=n))
    print(n, flush=True)
'''


def test_row_1_1_readers_never_rename(tmp_path, popen):
    "row 1.1: one process saves two steps again and again, another reads: each read gives a whole checkpoint"
    popen([sys.executable, '-c', SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True).stdout.readline()
    end, reads = time.time() + 3, 0
    while time.time() < end or reads <= 20:
        found = checkpoint.load(tmp_path)
        assert (found.tensors['w'] == found.extra['n']).all()
        reads += 1
    assert not list(tmp_path.glob('damaged-*'))


def test_row_1_1_only_the_owner_renames(tmp_path, capsys):
    "row 1.1, the kind: a damaged checkpoint is left where it is by readers, and set aside by the trainer"
    for step in (1, 2):
        checkpoint.save(tmp_path, step, dict(w=torch.ones(2)), {})
    (tmp_path / 'step-000000002' / 'extra.json').write_text('oops')
    assert checkpoint.load(tmp_path).step == 1 and (tmp_path / 'step-000000002').exists()
    assert checkpoint.load(tmp_path, holds_lock=True).step == 1 and (tmp_path / 'damaged-step-000000002').exists()
    assert capsys.readouterr().err.count('\n') == 2


# ---- section 1: runs, each in a process of its own where the whole program is meant

TOY = ['train', 'toy', '--name', 'x', '--quiet', '--train.threads', '1']


def mow(*words, code=0, root='.', **kw):
    "What `mow` says on stderr; it must end with that exit code and without a traceback"
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (HERE, HERE.parent))), 'TQDM_DISABLE': '1'}
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'mow_nb',
            *map(str, words),
            *(('--root', root) if words[0] not in ('tasks', 'doctor') else ()),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        **kw,
    )
    assert done.returncode == code and 'Traceback' not in done.stderr, done.stdout + done.stderr
    return done.stderr


def resume(run, **changes):
    return train(changed(preset('toy'), changes), 'x', run.parent, resume=True, quiet=True)


def test_row_1_1_saved_once(tmp_path, monkeypatch):
    "row 1.1: no step is saved twice when nothing has changed since"
    steps, real = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint,
        'save',
        lambda root, step, *args, **kw: (
            steps.append((step, args[1]['grouped'], *args[1]['replay'].values())),
            real(root, step, *args, **kw),
        )[1],
    )
    train(preset('toy'), 'x', tmp_path, quiet=True)
    assert len(steps) == len(set(steps)) and steps[-1][0] == 24


@pytest.mark.parametrize('mode', [0, 1])
def test_row_1_4_all_weights_nan(run, mode):
    "row 1.4: weights that are not finite are not evaluated (exit 4), and not trained on"
    found = checkpoint.load(run / 'checkpoints')
    tensors = {
        k: v * float('nan') if k.startswith('world.') and v.is_floating_point() and (mode or k == 'world.embed') else v
        for k, v in found.tensors.items()
    }
    names = learner_rows(found.tensors)
    checkpoint.save(run / 'checkpoints', found.step, tensors, found.extra, per_task=names)
    for act in (lambda: evaluate(run), lambda: resume(run)):
        with pytest.raises(NonFiniteError, match='holds numbers that are not finite') as stop:
            act()
        assert stop.value.exit_code == 4


@pytest.mark.parametrize('field', ['obs', 'act', 'rew', 'cont', 'done'])
def test_row_1_2_a_flipped_bit(run, field):
    "row 1.2: one bit of one stored step is noticed when the run goes on (exit 3), and the task is named"
    file = run / 'replay' / 'track-sea' / f'{field}.npy'
    rows = np.load(file, mmap_mode='r+')
    rows[17:18].view(np.uint8).reshape(-1)[0] ^= 1
    rows.flush()
    with pytest.raises(CheckpointError, match="^replay of task 'track-sea': step 17 is not what was written$"):
        resume(run)


def test_row_1_2_lost_and_exchanged(run):
    "row 1.2: a file that is missing is not made anew, and two tasks' files that were exchanged are found out"
    a, b = run / 'replay' / 'track-sea', run / 'replay' / 'track-night'
    (a / 'obs.npy').rename(run / 'kept')
    with pytest.raises(CheckpointError, match="^replay of task 'track-sea' has lost obs.npy$"):
        resume(run)
    assert not (a / 'obs.npy').exists()
    (run / 'kept').rename(a / 'obs.npy')
    a.rename(run / 'kept')
    b.rename(a)
    (run / 'kept').rename(b)
    with pytest.raises(CheckpointError, match='is not what was written'):
        resume(run)
    (b / 'head.npy').unlink()
    for _ in range(2):  # and whoever tries again loses nothing
        with pytest.raises(CheckpointError, match="^replay of task 'track-night' has lost head.npy$"):
            resume(run)
    assert np.load(b / 'obs.npy').any()


def test_row_1_2_more_rounds(run):
    "group 2: a resumed run may be made longer; its rings grow, and what they held is whole"
    before = np.load(run / 'replay' / 'track-sea' / 'obs.npy')
    resume(run, **{'train.env_steps': 44})
    after = np.load(run / 'replay' / 'track-sea' / 'obs.npy')
    assert len(after) == 44 and (after[:40] == before).all() and after[40:].any()
    assert checkpoint.load(run / 'checkpoints').extra['replay']['track-sea'] == 44


def learner_rows(tensors):
    return {k for k in tensors if k in ('world.embed', 'agent.scale', 'world.log_sigma') or k.startswith('memory.')}


def test_row_1_5_checkpoints_gone(run):
    "row 1.5: a run that has had checkpoints does not begin again (exit 3); one killed before its first does"
    before = (run / 'metrics.jsonl').read_text()
    shutil.rmtree(run / 'checkpoints')
    with pytest.raises(CheckpointError, match='has had checkpoints, and they are gone'):
        resume(run)
    assert (run / 'metrics.jsonl').read_text() == before


@pytest.mark.parametrize(
    'line',
    [
        '{"half',
        '{}',
        '[]',
        '7',
        '{"updates": "3"}',
        '{"updates": 3, "rec": {"a": {"b": {"c": {"d": {"e": 1}}}}}}',
        '\x00' * 20,
    ],
)
def test_row_1_6_a_bad_line(run, line, capsys):
    "row 1.6: a bad line in the middle of metrics.jsonl costs that line and no other, and is counted"
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    (run / 'metrics.jsonl').write_text('\n'.join([*lines[:3], line, *lines[3:]]) + '\n')
    resume(run)
    kept = (run / 'metrics.jsonl').read_text().splitlines()
    empty = line == '{}'  # says nothing, and nothing wrong
    assert [l for l in kept if json.loads(l)['updates']][: len(lines)] == lines
    assert empty or capsys.readouterr().err.count('1 line could not be read') == 1


def test_row_1_8_other_actions(tmp_path):
    "row 1.8: actions of own tasks belong to the run: with five, or two, a run of three is not evaluated or resumed"
    register('g', odd.Own, n_actions=3)
    config = changed(preset('toy'), {'tasks': 'g,track-sea', 'model.vae.size': 32})
    path = train(config, 'x', tmp_path, quiet=True)
    for n in (5, 2):
        register('g', odd.Own, n_actions=n)
        for act in (lambda: evaluate(path), lambda: train(config, 'x', tmp_path, resume=True, quiet=True)):
            with pytest.raises(
                ConfigError,
                match=rf"^task 'g' has n_actions={n}, d_continuous=0 here, but the run was made with n_actions=3",
            ):
                act()


def test_row_1_10_the_larger_record_is_kept(run):
    "row 1.10: a short evaluation does not replace a long one of the same agent"
    evaluate(run, episodes=4)
    before = load_records(run / 'eval')
    evaluate(run, episodes=1)
    assert load_records(run / 'eval') == before and (run / 'eval' / 'step-000000024-episodes-1.json').exists()


def test_an_opponent_that_is_damaged(run, capsys):
    "An evaluation is shown and kept, though the random player's file beside it is damaged"
    (run / 'eval' / 'random.json').write_text('[')
    (run / 'eval' / 'step-000000024.json').unlink()
    main(['evaluate', 'x', f'--root={run.parent}', '--episodes=1'])
    out, err = capsys.readouterr()
    assert 'track-night' in out and err.splitlines() == ['left out: random.json is not JSON']
    assert load_records(run / 'eval')[-1]['updates'] == 24


def test_row_1_11_notes_are_kept(tmp_path):
    "row 1.11: the explorer's notebook is written once"
    file = ready_notebook(tmp_path / 'explore.ipynb', '.')
    file.write_text('notes of my own')
    assert ready_notebook(file, '.').read_text() == 'notes of my own'


def test_row_1_13_lock_first(run):
    "row 1.13: while a run is held, a second trainer changes nothing, from another process or from this one"
    before = (run / 'config.toml').read_bytes()
    with lock_run(run):
        assert 'is being trained already' in mow(*TOY, '--resume', '--train.save-every', 50, code=2, root=run.parent)
        with pytest.raises(ConfigError, match='is being trained already'):
            resume(run)
    assert (run / 'config.toml').read_bytes() == before
    resume(run)


@pytest.mark.parametrize('sign, code', [('HUP', 129), ('TERM', 143), ('INT', 130)])
def test_row_1_14_signals(tmp_path, sign, code, popen):
    "row 1.14: HUP, TERM and INT leave a checkpoint of that moment, and an exit code that says so"
    env = {**os.environ, 'PYTHONPATH': str(HERE.parent), 'TQDM_DISABLE': '1'}
    child = popen(
        [sys.executable, '-m', 'mow_nb', *TOY, '--train.warmup', '2000', '--root', str(tmp_path)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while len(read_metrics(tmp_path / 'x')) < 1 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(getattr(signal, f'SIG{sign}'))
    said = child.communicate(timeout=60)
    assert child.returncode == code, said
    assert checkpoint.load(tmp_path / 'x' / 'checkpoints').step > 0


def test_row_1_14_nobody_listens(tmp_path, popen):
    "row 1.14: `mow train ... | head` saves and says with its exit code that it did not end"
    env = {**os.environ, 'PYTHONPATH': str(HERE.parent)}
    words = [w for w in TOY if w != '--quiet']
    env.pop('TQDM_DISABLE', None)
    child = popen(
        [sys.executable, '-m', 'mow_nb', *words, '--train.warmup', '2000', '--root', str(tmp_path)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.readline()
    child.stdout.close()  # the plan; the next word finds nobody
    error = child.stderr.read()
    assert child.wait(60) == 141 and error == '', error
    assert checkpoint.load(tmp_path / 'x' / 'checkpoints') is not None


def test_row_1_16_a_start_that_fails(tmp_path, monkeypatch):
    "row 1.16: a start that fails before anything was played has not used the name up for the next"
    register('g', odd.Silent, n_actions=5)
    with pytest.raises(ConfigError, match='n_actions=5'):
        train(changed(preset('toy'), {'tasks': 'g,track-sea'}), 'x', tmp_path, quiet=True)
    with monkeypatch.context() as m:
        m.setattr('mow_nb.training.run.Replay', lambda *a, **k: odd.out(DiskError('too small')))
        with pytest.raises(DiskError):
            train(preset('toy'), 'x', tmp_path, quiet=True)
    with monkeypatch.context() as m:
        m.setattr('mow_nb.training.run.Run.prefill', lambda self: out_of_order())  # noqa: F821
        with pytest.raises(NameError):
            train(changed(preset('toy'), {'model.vae.size': 16, 'model.vae.stem': 8}), 'x', tmp_path, quiet=True)
    train(preset('toy'), 'x', tmp_path, quiet=True)
    with pytest.raises(ConfigError, match="run 'x' exists"):
        train(preset('toy'), 'x', tmp_path, quiet=True)


# ---- section 1: numbers that are none


def learner_and_batch(labels=(0, 0, 1), **changes):
    "A toy learner of three tasks, and a batch for it"
    config, rng = changed(preset('toy'), changes), np_rng(0, 'nan')
    t, v = config.train, config.model.vae
    draw = lambda *shape: torch.from_numpy(rng.random((3, t.batch_size, t.seq_len, *shape), np.float32))
    act = torch.eye(18)[torch.from_numpy(rng.integers(0, 3, (3, t.batch_size, t.seq_len)))]
    return Learner(config, list(labels)), Batch(
        draw(3, v.size, v.size),
        act,
        draw(),
        torch.ones(3, t.batch_size, t.seq_len),
        torch.zeros(3, t.batch_size, t.seq_len),
    )


def with_nan(batch, field, k=1):
    out = {f: getattr(batch, f).clone() for f in ('obs', 'act', 'rew', 'cont', 'done')}
    out[field][k].view(-1)[5] = float('nan')
    return Batch(**out)


@pytest.mark.parametrize('labels', [(0, 0, 0), (0, 0, 1)], ids=['shared', 'grouped'])
def test_row_1_3_one_task_is_isolated(labels):
    "row 1.3: NaN in one task's reward, picture, action or vector: it is left out and counted, others stay bit for bit"
    results = []
    for field in ('rew', 'obs', 'act', 'cont', 'embed', 'other values'):
        learner, batch = learner_and_batch(labels)
        for _ in range(2):
            learner.update(batch)
        if field == 'embed':
            learner.world.embed.data[1] = float('nan')
            hurt = batch
        elif field == 'other values':
            hurt = with_nan(
                Batch(
                    *(
                        torch.where(torch.tensor([0, 1, 0]).view(3, *[1] * (x.ndim - 1)) > 0, x * 0.5, x)
                        for x in (batch.obs, batch.act, batch.rew, batch.cont, batch.done)
                    )
                ),
                'rew',
            )
        else:
            hurt = with_nan(batch, field)
        means = learner.update(hurt)
        assert means['skipped'].tolist() == [0, 1, 0] and all(torch.isfinite(v).all() for v in means.values()), field
        tensors = {
            k: torch.cat([v[:1], v[2:]]) if k in learner.per_task() else v for k, v in learner.state_dict().items()
        }
        results.append((checkpoint.weights_hash(tensors), {k: v[[0, 2]].tolist() for k, v in means.items()}))
        assert all(torch.isfinite(v).all() for v in tensors.values())
        assert means['skipped'].sum() == 1 and learner.updates == 3
    assert all(r == results[0] for r in results)


def test_row_1_3_as_if_left_out():
    "row 1.3: with VAEs of its own, gradients of the others are those of a loss without the poisoned task"
    learner, batch = learner_and_batch((0, 1, 2))
    twin, _ = learner_and_batch((0, 1, 2))
    means = learner.update(with_nan(batch, 'rew'), behaviour=False)
    world = twin.world.train()
    state = world.observe(
        batch, twin.gen('observe'), *twin.annealing().unbind(), twin.gen('dropout'), twin.config.train.pictures_rate
    )
    losses = world.losses(batch, state)
    for name, l in losses.items():
        assert torch.allclose(means[name][[0, 2]], l.mean((1, 2))[[0, 2]], rtol=1e-5), name


@pytest.mark.parametrize('weight', [0.0, 1.0])
def test_row_1_3_only_the_agents_half(weight):
    "row 1.3: a NaN in what belongs to the agent alone: the task is left out, and the world model is not stepped again"
    learner, batch = learner_and_batch(**{'agent.replay_critic': weight})
    twin, _ = learner_and_batch(**{'agent.replay_critic': weight})
    learner.actor_critic.scale[1] = float('nan')
    means = learner.update(batch)
    twin.update(batch)
    assert means['skipped'].tolist() == [0, 1, 0] and all(torch.isfinite(v).all() for v in means.values())
    whole = [checkpoint.weights_hash(x.world.state_dict()) for x in (learner, twin)]
    assert whole[0] == whole[1]
    actors = [x.actor_critic.actor.state_dict() for x in (learner, twin)]
    assert any(not torch.equal(a, b) for a, b in zip(*(x.values() for x in actors)))


def test_row_1_3_everybody(tmp_path, monkeypatch):
    """row 1.3: where nobody in particular is to blame, no weight, moment or statistic moves, and all are counted; a run
    in which that is so in every update between two lines of its journal stops"""
    learner, batch = learner_and_batch()
    learner.update(batch)
    before = checkpoint.weights_hash(learner.state_dict())
    monkeypatch.setattr('mow_nb.training.learner.clip_gradients', lambda parts, most: torch.tensor(float('nan')))
    assert learner.update(batch)['skipped'].tolist() == [1, 1, 1]
    assert checkpoint.weights_hash(learner.state_dict()) == before
    for tasks_ in ('track-night,reach-night,track-sea', 'track-night'):
        config = changed(preset('toy'), {'tasks': tasks_, 'train.log_every': 2})
        with pytest.raises(NonFiniteError, match='none of the last 2 updates'):
            train(config, tasks_[-3:], root=tmp_path, quiet=True)


def test_row_1_3_a_run_goes_on(tmp_path, monkeypatch, capsys):
    "row 1.3: a run with one poisoned task ends, its lines count and stderr names the task"
    real = Run.sample
    monkeypatch.setattr(
        Run,
        'sample',
        lambda self, purpose='batch', *a, **kw: (
            with_nan(real(self, purpose, *a, **kw), 'rew', 2) if purpose == 'batch' else real(self, purpose, *a, **kw)
        ),
    )
    path = train(preset('toy'), 'x', tmp_path, quiet=True)
    lines = read_metrics(path)
    assert all(l['skipped'] == {'track-sea': 2} and set(l['rec']) == {'track-night', 'reach-night'} for l in lines)
    assert 'left out of the last 2: track-sea (2 times)' in capsys.readouterr().err
