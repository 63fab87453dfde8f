"""Every notebook is one test: all its cells are run, top to bottom, in a process of its own."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from ctypes.util import find_library
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent

# Workers share the cores, so each of them, and each process it starts, keeps to one thread.
ONE_THREAD = {name: '1' for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}
QUIET = dict(MPLBACKEND='agg', TQDM_DISABLE='1', PYTHONWARNINGS='ignore', PYDEVD_DISABLE_FILE_VALIDATION='1')
os.environ.update(ONE_THREAD)
# Started by nohup, all that runs here would ignore a hangup, and the tests of hangups would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Libraries of others, which take longer to import than some chapters to run.
IMPORTED_ONCE = (
    'torch._dynamo',
    'scipy.stats',
    'sklearn.cluster',
    'pandas',
    'matplotlib.pyplot',
    'gymnasium',
    'execnb.shell',
    'nbclient',
    'nbdev.showdoc',
)
os.environ.setdefault('MPLBACKEND', 'agg')


def pytest_addoption(parser):
    parser.addoption('--chapter-seconds', type=int, default=300, help='time limit of one notebook (default: 300)')


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and file_path.parent.name == 'nbs' and not file_path.name.startswith(('_', '.')):
        return Notebook.from_parent(parent, path=file_path)


@cache
def notebook_server(many):
    "Process that runs notebooks in forks of itself; with many to run, it first imports what most of them need"
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'tests' / 'book.py'), 'serve', *(IMPORTED_ONCE if many else ())],
        env={**os.environ, **QUIET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def end(session):
    "End a process that leads a session, and whatever it has started"
    try:
        os.killpg(session, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


class Notebook(pytest.File):
    "A file that holds one test"

    def collect(self):
        yield Chapter.from_parent(self, name=self.path.stem)


class ChapterFailed(Exception):
    pass


class Chapter(pytest.Item):
    "One notebook, run by tests/book.py in a fork of its own"

    def runtest(self):
        limit = self.config.getoption('--chapter-seconds')
        server = notebook_server(sum(isinstance(item, Chapter) for item in self.session.items) > 1)
        with tempfile.NamedTemporaryFile('r', errors='replace') as story:
            server.stdin.write(f'{self.path}\t{story.name}\n'.encode())
            pid = int(server.stdout.readline())
            try:
                ended = select.select([server.stdout], [], [], limit)[0]
            finally:
                end(pid)
            code, story = int(server.stdout.readline()), story.read()
        if not ended:
            raise ChapterFailed(f'{self.path.name} did not finish within {limit} seconds')
        if code < 0:
            story += f'{self.path.name}: the process was ended by {signal.Signals(-code).name}'
        if code:
            raise ChapterFailed(story.strip())

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
