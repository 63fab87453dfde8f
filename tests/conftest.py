"""What tests share: a finished toy run; for browsers a headless Chromium, the built site, a place for screenshots."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from book import BROWSERS, ROOT
from filelock import FileLock

FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
DESK, PHONE = (
    dict(viewport=dict(width=1280, height=800)),
    dict(viewport=dict(width=390, height=844), has_touch=True, is_mobile=True),
)


@pytest.fixture(scope='session')
def browser():
    "A real browser; where none is installed its tests are skipped, unless MOW_BROWSER=must says that they may not be"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        why = f"no Chromium here ({', '.join(BROWSERS)}); `make setup-system` installs one"
        pytest.fail(why, pytrace=False) if os.environ.get('MOW_BROWSER') == 'must' else pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


# anywidget says so of a widget that was not there after two seconds, and goes on waiting: a busy machine again
LATE = '[anywidget] Failed to initialize model.'


class Visit:
    "A page that notes what went wrong: errors on its console, and anything it wanted from the network"

    def __init__(self, browser, folder, shape=DESK, home='file:'):
        self.page, self.folder, self.wrong = browser.new_context(**shape).new_page(), folder, []
        self.page.set_default_timeout(90_000)  # a busy machine is slow, not broken
        self.page.on('console', lambda m: self.wrong.append(f'console: {m.text}') if m.type == 'error' else None)
        self.page.on('pageerror', lambda e: LATE in str(e) or self.wrong.append(f'error: {e}'))
        self.page.on(
            'request',
            lambda r: (
                self.wrong.append(f'asked the network for {r.url}')
                if not r.url.startswith((home, 'data:', 'blob:'))
                else None
            ),
        )
        self.page.on(
            'requestfailed',
            lambda r: self.wrong.append(f'missing: {r.url}') if r.failure != 'net::ERR_ABORTED' else None,
        )

    def shot(self, name, **kw):
        self.page.screenshot(path=self.folder / f'{name}.png', **kw)

    def is_fine(self):
        "Nothing went wrong, all pictures are there, and the page is no wider than the screen"
        broken, width, screen = self.page.evaluate(LOOK)
        assert not self.wrong and not broken, [*self.wrong, *broken]
        assert width <= screen <= self.page.viewport_size['width'], (
            f'{self.page.url} is {width} pixels wide on a screen of {screen}'
        )

    def is_accessible(self, within='html'):
        "axe-core (MPL-2.0) finds nothing serious or critical in this part of the page; equations and code are left out"
        if not self.page.evaluate('typeof axe === "object"'):
            axe = Path(find_spec('axe_playwright_python').origin).with_name('axe.min.js')
            self.page.evaluate(axe.read_text())
        found = self.page.evaluate(FINDINGS, within)
        assert not found, '\n'.join([f'{self.page.url}:', *found])


LOOK = """() => [
    [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 100)),
    document.documentElement.scrollWidth,
    document.documentElement.clientWidth,
]"""

FINDINGS = """within => axe.run({include: [[within]], exclude: [['mjx-container'], ['pre']]}, {
    resultTypes: ['violations'], preload: false, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'],
}).then(({violations}) => violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .flatMap(v => v.nodes.map(n => `${v.impact}: ${v.id}: ${n.target}: ${n.failureSummary}`)).slice(0, 10))"""


@pytest.fixture
def visit(browser, request):
    "Opens pages, and closes them after the test; their screenshots go to pytest's cache"
    folder, open_pages = request.config.cache.mkdir('screenshots'), []

    def go(*args, **kw):
        open_pages.append(Visit(browser, folder, *args, **kw))
        return open_pages[-1]

    yield go
    for v in open_pages:
        v.page.context.close()


@pytest.fixture(scope='session')
def made_once(tmp_path_factory, worker_id):
    "Function that has a directory made once for all workers: `made_once(name, make)` calls `make(path)` and gives it"
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == 'master' else base.parent

    def get(name, make):
        path, done = base / name, base / f'{name}.made'
        with FileLock(base / f'{name}.lock'):
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                done.touch()
        return path

    return get


@pytest.fixture(scope='session')
def site(made_once):
    "The site"

    def build(out):
        line = [sys.executable, ROOT / 'tests' / 'site' / 'build.py', out]
        done = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr

    return made_once('site', build)


@pytest.fixture(scope='session')
def finished(made_once):
    "A toy run, trained once for all tests that damage a copy of it"
    from mow_nb.store.presets import preset
    from mow_nb.training.run import train

    return made_once('runs', lambda root: train(preset('toy'), 'x', root, quiet=True)) / 'x'


@pytest.fixture
def popen():
    "`subprocess.Popen`; what a test has started and not ended is asked to stop, and killed where it does not"
    started = []

    def start(*args, **options):
        started.append(subprocess.Popen(*args, **options))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def run(finished, tmp_path):
    "A copy of the toy run, which may be damaged"
    return Path(shutil.copytree(finished, tmp_path / 'x'))
