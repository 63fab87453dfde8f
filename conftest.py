"""Every notebook is one test: all its cells are run, top to bottom, in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent

# Workers share the cores, so each of them, and each process it starts, keeps to one thread.
ONE_THREAD = {name: '1' for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
QUIET = dict(MPLBACKEND='agg', TQDM_DISABLE='1', PYTHONWARNINGS='ignore', PYDEVD_DISABLE_FILE_VALIDATION='1')
os.environ.update(ONE_THREAD)
os.environ.setdefault('MPLBACKEND', 'agg')


def pytest_addoption(parser):
    parser.addoption('--chapter-seconds', type=int, default=300, help='time limit of one notebook (default: 300)')


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and file_path.parent.name == 'nbs' and not file_path.name.startswith(('_', '.')):
        return Notebook.from_parent(parent, path=file_path)


class Notebook(pytest.File):
    "A file that holds one test"

    def collect(self):
        yield Chapter.from_parent(self, name=self.path.stem)


class ChapterFailed(Exception):
    pass


class Chapter(pytest.Item):
    "One notebook, run by tests/book.py in a process of its own"

    def runtest(self):
        limit = self.config.getoption('--chapter-seconds')
        child = subprocess.Popen(
            [sys.executable, str(ROOT / 'tests' / 'book.py'), 'run', str(self.path)],
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
            start_new_session=True,
        )
        try:
            _, story = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise ChapterFailed(f'{self.path.name} did not finish within {limit} seconds')
        finally:
            self.end(child)
        if child.returncode < 0:
            story += f'{self.path.name}: the process was ended by {signal.Signals(-child.returncode).name}'
        if child.returncode:
            raise ChapterFailed(story.strip())

    @staticmethod
    def end(child):
        "End the process and whatever it has started"
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        child.wait()

    def repr_failure(self, excinfo):
        return str(excinfo.value) if isinstance(excinfo.value, ChapterFailed) else super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, f'notebook {self.path.stem}'


def pytest_terminal_summary(terminalreporter):
    "Show how the chapters read and how long they ran, and name the system packages that a skipped test was waiting for"
    sys.path.insert(0, str(ROOT / 'tests'))
    from book import BROWSERS, table

    seconds = {
        Path(r.nodeid.split('::')[0]).stem: r.duration
        for status in ('passed', 'failed')
        for r in terminalreporter.stats.get(status, [])
        if r.when == 'call' and r.nodeid.startswith('nbs/')
    }
    if seconds:
        terminalreporter.section('chapters')
        for line in table(seconds):
            terminalreporter.write_line(line)
    if (shots := ROOT / '.pytest_cache' / 'd' / 'screenshots').exists():
        terminalreporter.write_line(f'Screenshots: {shots.relative_to(ROOT)}/')
    missing = [] if any(map(shutil.which, BROWSERS)) else ['Chromium (browser tests)']
    missing += [] if find_library('OSMesa') else ['OSMesa (Meta-World pictures)']
    if missing:
        terminalreporter.write_line(
            f"Not installed: {', '.join(missing)}. `make setup-system` installs what is missing."
        )
