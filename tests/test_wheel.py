"""What pip would install: built as a source archive, from that a wheel, unpacked and used far from the repository."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from book import LIB, ROOT


def shell(*args, **kw):
    done = subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **kw
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_imported_is_required():
    "A library that mow_nb imports is one of those that pip is told of, and does not come by way of another"
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT / 'settings.ini', encoding='utf-8')
    named = ' '.join(v for key, v in cfg['DEFAULT'].items() if key.endswith('requirements'))
    told = {re.match(r'[\w-]+', word)[0].lower().replace('_', '-') for word in shlex.split(named)}
    of, found = packages_distributions(), set()
    for file in LIB.rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition('.')[0] for name in names} - {'mow_nb', *sys.stdlib_module_names}
    assert len(found) > 10
    missing = {name for name in found if not {d.lower().replace('_', '-') for d in of.get(name, [name])} & told}
    assert not missing


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from a copy so that nothing is left in the repository"
    source, out = tmp_path_factory.mktemp('source') / 'mow_nb', tmp_path_factory.mktemp('dist')
    source.mkdir()
    for name in (
        'settings.ini',
        'setup.py',
        'pyproject.toml',
        'MANIFEST.in',
        'LICENSE',
        'README.md',
        'constraints.txt',
    ):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    shutil.copytree(LIB, source / 'mow_nb', ignore=shutil.ignore_patterns('__pycache__'))
    shell('-m', 'build', '--no-isolation', '--outdir', out, source)
    return next(out.glob('*.whl'))


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file() and '__pycache__' not in p.parts}


def test_wheel_holds_the_library(wheel):
    "All modules and data are in it, and no notebook, test or run"
    names = {n for n in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in n}
    assert names == {f'mow_nb/{n}' for n in files(LIB)}


def test_wheel_asks_for_what_settings_say(wheel):
    "Requirements, extras, the command and the licence"
    archive, cfg = zipfile.ZipFile(wheel), ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT / 'settings.ini')
    info = lambda name: next(archive.read(n).decode() for n in archive.namelist() if n.endswith(f'.dist-info/{name}'))
    asked = [
        line.removeprefix('Requires-Dist: ')
        for line in info('METADATA').splitlines()
        if line.startswith('Requires-Dist')
    ]
    plain = [a for a in asked if 'extra ==' not in a]
    assert sorted(plain) == sorted(cfg['DEFAULT']['requirements'].split())
    assert {'Provides-Extra: dev', 'Provides-Extra: metaworld', 'Requires-Python: >=3.11'} <= set(
        info('METADATA').splitlines()
    )
    assert 'mow = mow_nb.tools.cli:main' in info('entry_points.txt')
    assert 'Apache License' in info('licenses/LICENSE')


def test_wheel_works_elsewhere(wheel, tmp_path):
    "Imported in another place, every module comes from the wheel and finds its data"
    target = tmp_path / 'site'
    shell('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', target, wheel)
    code = '''
import importlib, json, pkgutil
from importlib.resources import files
import mow_nb
modules = [m.name for m in pkgutil.walk_packages(mow_nb.__path__, 'mow_nb.') if not m.name.endswith('.__main__')]
homes = [importlib.import_module(m).__file__ for m in modules]
data = sorted(f.name for f in (files('mow_nb') / 'data').iterdir())
print(json.dumps(dict(homes=homes, version=mow_nb.__version__, data=data)))
'''
    env = {**os.environ, 'PYTHONPATH': str(target), 'MPLBACKEND': 'agg'}
    told = json.loads(shell('-c', code, cwd=tmp_path, env=env).splitlines()[-1])
    assert all(Path(home).is_relative_to(target) for home in told['homes']), told['homes']
    assert len(told['homes']) == len(list(LIB.rglob('*.py'))) - 2  # all but the package itself and `__main__`
    assert told['data'] == sorted(p.name for p in (LIB / 'data').iterdir())
    assert f'mow_nb-{told["version"]}-' in wheel.name
