"""What an editor sees: every method is found where it is asked for, types hold, lines are as the style wants them."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from book import LIB, ROOT
from test_book import MODULES, dotted_name, none


def public_classes():
    "{module: {class: names of its public methods, properties and fields}}, as the exported files have them"
    found = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
                parts = [n.name for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
                parts += [n.target.id for n in node.body if isinstance(n, ast.AnnAssign)]
                found.setdefault(dotted_name(path), {})[node.name] = {p for p in parts if not p.startswith('_')}
    return found


CLASSES = public_classes()


@pytest.fixture(scope='module')
def fresh_cache(tmp_path_factory):
    "A cache of parsed files of its own: one that a killed process left half-written at home would fail here"
    import jedi

    kept, jedi.settings.cache_directory = jedi.settings.cache_directory, str(tmp_path_factory.mktemp('jedi'))
    yield
    jedi.settings.cache_directory = kept


@pytest.mark.parametrize('module', CLASSES)
def test_editor_completes_every_method(module, fresh_cache):
    "jedi, which completes names in Jupyter and most editors, knows each public method of each public class"
    import jedi

    project, missing = jedi.Project(ROOT, sys_path=[str(ROOT)], smart_sys_path=False), []
    for name, parts in CLASSES[module].items():
        source = f'from mow_nb.{module} import {name}\n{name}.'
        known = {c.name for c in jedi.Script(source, project=project).complete()}
        missing += [f'{name}.{part}' for part in sorted(parts - known)]
    none(missing, f'jedi does not complete in {module}')


def test_no_method_is_added_from_outside():
    "What a class can do at run time is written in its body (or in that of a class it is made from)"
    from importlib import import_module

    added = []
    for module, classes in CLASSES.items():
        for name in classes:
            made = getattr(import_module(f'mow_nb.{module}'), name)
            own = {k for k, v in vars(made).items() if inspect.isfunction(v) and not k.startswith('_')}
            added += [f'{module}.{name}.{part}' for part in sorted(own - classes[name])]
    assert sum(map(len, CLASSES.values())) > 60
    none(added, 'Methods that no editor finds')


# Attribute errors that stay: (module, class that pyright sees) -> why there is such an attribute all the same
EXPLAINED = {
    ('core', 'Attribute'): 'fields and parameters of ours are plain names, and those have an id',
    ('core', 'Subscript'): 'as above',
    ('envs.metaworld', 'Env[Any, Any]'): "Gymnasium's Env does not declare what Meta-World's environments add to it",
    (
        'envs.metaworld',
        'object',
    ): 'the compiled model of MuJoCo, which is annotated as any object so that it loads late',
    ('envs.pocket', 'Env[Any, Any]'): 'behind the wrappers is one of our own worlds',
    ('envs.steer', 'Env[Any, Any]'): 'behind the wrappers is one of our own worlds',
    ('envs.vector', 'None'): 'lists that are None only until the first episode begins',
    ('envs.workers', 'object'): 'a maker of environments is a class or a function, which have a name',
    ('envs.wrappers', 'Env*'): 'each wrapper below defines the methods that the base class calls',
    ('envs.wrappers', 'Space[Unknown]'): "the emulator's action space is Discrete",
    ('one_task', 'Literal[0]'): 'a sum of tensors, which Python begins with the number 0',
    ('tools.study', 'SubFigure'): 'the axes stand in a figure of their own',
    ('training.learner', 'int'): 'a sum of tensors, which Python begins with the number 0',
    ('training.share', 'str'): 'became a Path in the first line',
    ('view.clusters', 'object'): 'axes of matplotlib, which is loaded late',
    (
        'view.explorer',
        'Widget',
    ): 'what ipywidgets makes has the parts of its kind, which its base class does not declare',
    ('view.explorer', 'HTML'): 'a widget that carries the record it shows',
    ('view.explorer', 'str'): 'became a Path in the first line',
    ('view.figures', 'object'): 'axes of matplotlib, which is loaded late',
}


def unexplained(fault):
    "Is this an error for which there is no explanation?"
    seen = re.search(r'attribute ".+?" for class "(.+?)"', fault['message'])
    module = dotted_name(Path(fault['file']))
    return fault['severity'] == 'error' and not (seen and (module, seen[1]) in EXPLAINED)


def pyright(*paths):
    "What pyright says about files; skips where it cannot run, since it needs Node.js and once the network"
    done = subprocess.run(
        [sys.executable, '-m', 'pyright', '--pythonpath', sys.executable, '--outputjson', *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, 'PYRIGHT_PYTHON_IGNORE_WARNINGS': '1'},
    )
    try:
        return json.loads(done.stdout)['generalDiagnostics']
    except ValueError:
        why = (done.stdout + done.stderr).strip().splitlines()[-1:]
        if os.environ.get('MOW_PYRIGHT') == 'must':
            pytest.fail(f'pyright does not run: {why}', pytrace=False)
        pytest.skip(f'pyright does not run here (it needs Node.js, and the network the first time): {why}')


def test_types():
    "pyright (basic, settings in pyproject.toml) finds no error in the library that is not explained above"
    faults = [d for d in pyright(LIB) if unexplained(d)]
    where = lambda d: f'{Path(d["file"]).relative_to(ROOT)}:{d["range"]["start"]["line"] + 1}'
    none([f'{where(d)}: {d["message"].splitlines()[0]} ({d.get("rule")})' for d in faults], 'pyright')


def test_the_type_check_sees(tmp_path):
    "It is not blind: a method that is not there is an error"
    (tmp_path / 'wrong.py').write_text('from mow_nb.core import TwoHot\n\nTwoHot.nosuch\n')
    assert any(d.get('rule') == 'reportAttributeAccessIssue' for d in pyright(tmp_path / 'wrong.py'))


def test_style():
    "ruff (settings in pyproject.toml) finds no long line, no unused or unknown name, and nothing to sort or format"
    for words in (['check', '--output-format', 'concise'], ['format', '--check']):
        command = [sys.executable, '-m', 'ruff', *words, '--no-cache', 'nbs', 'tests', 'mow_nb']
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        none(done.stdout.splitlines() if done.returncode else [], f'ruff {words[0]}')
