"""A question that needs no tensors is answered without loading them: what each command line imports.

Each is asked in a process of its own. Modules are looked at and not seconds, so that the answer is
the same on every machine.
"""

import json
import subprocess
import sys

import pytest

SLOW = (
    'torch',
    'sklearn',
    'scipy',
    'pandas',
    'matplotlib',
    'seaborn',
    'tensorboard',
    'gymnasium',
    'ale_py',
    'cv2',
    'mujoco',
    'IPython',
    'tyro',
)
REPORT = "; import json; print('\\n' + json.dumps([n for n in {} if n in sys.modules]))".format(SLOW)


def loaded(code, cwd):
    "(output, which of the slow libraries are loaded) after this code"
    done = subprocess.run(
        [sys.executable, '-c', f'import sys; {code}{REPORT}'], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told, _, names = done.stdout.rstrip().rpartition('\n')
    return told + done.stderr, json.loads(names)


@pytest.mark.parametrize(
    'line, says',
    [
        ('--help', 'one agent that learns many visual tasks'),
        ('--version', '.'),
        ('tasks', 'reach-v3'),
        ('train', 'presets'),
        ('trian toy', "did you mean 'train'?"),
        ('train pokcet', "did you mean 'pocket'?"),
        ('tasks Ponk', "did you mean 'Pong'?"),
        ('train toy --tasks Pong,Brekout', "did you mean 'Breakout'?"),
        ('train toy --train.horizn 3', "did you mean 'train.horizon'?"),
        ('train toy --train.env_steps ten', 'must be of type int'),
        ('train toy --agent.gamma 1.5', 'must lie in [0, 1]'),
        ('bench storrm', "did you mean 'storm'?"),
        ('evaluate pokcet', 'no run in'),
        ('report pokcet', 'no run in'),
        ('report example pokcet', 'no run in'),
        ('explore pokcet', 'no run in'),
        ('explore example pokcet', 'no run in'),
        ('check pokcet', 'no run in'),
        ('hash pokcet', 'no run in'),
        ('add pokcet --tasks Pong', 'no run in'),
        ('drop pokcet --tasks Pong', 'no run in'),
        ('study pokcet', "did you mean 'pocket'?"),
        ('study pocket --only ful', "did you mean 'full'?"),
    ],
)
def test_quick_answers(line, says, tmp_path):
    "Help, lists and refusals load none of the slow libraries"
    told, names = loaded(f'from mow_nb.tools.cli import main; main({line.split()!r})', tmp_path)
    assert says in told
    assert names == []
    assert not list(tmp_path.iterdir())


def test_import_is_light(tmp_path):
    "The package itself loads nothing at all, and its names are there when they are asked for"
    code = (
        'before = set(sys.modules); import mow_nb; '
        "new = {m.partition('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names; print(sorted(new))"
    )
    told, names = loaded(code, tmp_path)
    assert told.strip() == "['mow_nb']" and names == []
    told, names = loaded(
        'from mow_nb import train, evaluate, load, Agent, Config; print(train.__module__, Config.__module__)', tmp_path
    )
    assert told.strip() == 'mow_nb.training.run mow_nb.config' and 'torch' in names


def test_settings_without_tensors(tmp_path):
    "Presets, their checks and the file they become need no PyTorch"
    code = (
        'from mow_nb.store.presets import PRESETS, preset, check, flat; '
        'print(len([flat(preset(n)) for n in PRESETS if check(preset(n))]))'
    )
    told, names = loaded(code, tmp_path)
    assert int(told) > 15 and names == []


def test_first_line_of_training(tmp_path):
    "The first line of `mow train` does not wait for libraries that are needed later, if at all"
    code = (
        "import builtins; said, tell = [], print; "
        "exec('class Enough(Exception): pass\\ndef first(*a, **k): said.extend(a); raise Enough'); "
        'builtins.print = first; '
        "from mow_nb.tools.cli import main; "
        "exec('try: main([\\'train\\', \\'toy\\'])\\nexcept Enough: pass'); builtins.print = tell; print(said)"
    )
    told, names = loaded(code, tmp_path)
    assert 'run runs/toy: 3 tasks' in told
    assert 'torch' in names and not set(names) & {
        'sklearn',
        'scipy',
        'pandas',
        'matplotlib',
        'seaborn',
        'tensorboard',
        'IPython',
    }


def test_the_check_sees(tmp_path):
    "It is not blind: a slow library that is loaded is reported"
    assert 'gymnasium' in loaded('import gymnasium', tmp_path)[1]


def test_module_is_the_command(tmp_path):
    "`python -m mow_nb` answers and leaves as `mow` does"

    def ask(*words):
        return subprocess.run(
            [sys.executable, '-m', 'mow_nb', *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    helped, wrong = ask('--help'), ask('trian')
    assert helped.returncode == 0 and helped.stdout.startswith('mow ')
    assert (wrong.returncode, wrong.stderr) == (2, "mow: unknown command 'trian': did you mean 'train'?\n")


def test_help_explains():
    "`help` on whatever the package offers shows each parameter with its meaning"
    import mow_nb

    for name in mow_nb.__all__:
        head, _, table = getattr(mow_nb, name).__doc__.partition('\n\nParameters:\n')
        rows = [line.split(None, 1) for line in table.splitlines() if line[4:5].strip()]
        assert head and rows and all(len(row) == 2 for row in rows), name
    assert 'of the run' in mow_nb.train.__doc__ and 'fields of `EvalConfig`' in mow_nb.evaluate.__doc__
