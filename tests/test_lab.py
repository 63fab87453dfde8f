"""A reader at work: JupyterLab in a real browser, a notebook run from top to bottom, and every control used."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from book import NBS, ROOT

from conftest import DESK

SETTINGS = {
    'notebook-extension/tracker': '{"windowingMode": "none"}',
    'apputils-extension/notification': '{"fetchNews": "false", "checkForUpdates": false}',
}


def free_port():
    "A port that nobody listens on"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def served(command, home, cwd=None, **variables):
    "A server with directories of its own, ended at the end; gives the file that it writes its log to"
    env = {
        **os.environ,
        'JUPYTERLAB_SETTINGS_DIR': str(home / 'settings'),
        'IPYTHONDIR': str(home / 'ipython'),
        **{f'JUPYTER_{n}_DIR': str(home / n.lower()) for n in ('CONFIG', 'DATA', 'RUNTIME')},
        **variables,
    }
    env.pop('MPLBACKEND', None)
    with open(home / 'log', 'w') as log:
        server = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield home / 'log'
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a free port, with settings, caches and a copy of the notebooks of its own; gives (address, folder)"
    home = tmp_path_factory.mktemp('lab')
    shutil.copytree(NBS, home / 'nbs', ignore=shutil.ignore_patterns('.*'))
    for name, text in SETTINGS.items():
        path = home / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    port = free_port()
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        f'--port={port}',
        '--ip=127.0.0.1',
        '--IdentityProvider.token=',
        f'--ServerApp.root_dir={home}/nbs',
        '--ServerApp.port_retries=0',
        '--ServerApp.disable_check_xsrf=True',
        '--LabApp.extension_manager=readonly',
    ]
    address = f'http://127.0.0.1:{port}'
    with served(command, home, cwd=home, JUPYTER_PREFER_ENV_PATH='1') as log:
        told = lambda: f'JupyterLab did not start:\n{log.read_text()[-2000:]}'
        wait(lambda: answers(f'{address}/api/status'), 60, told)
        yield address, home / 'nbs'


def poll(ready, seconds):
    "Ask again and again until it is so; gives the last answer"
    end = time.monotonic() + seconds
    while not (answer := ready()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


def wait(ready, seconds, story):
    "Wait until it is so, or fail with the story"
    if not poll(ready, seconds):
        pytest.fail(story(), pytrace=False)


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False


class Notebook:
    "One notebook in the browser"

    def __init__(self, visit, lab, name):
        self.address, self.file = lab[0], name
        self.v, self.name = visit(DESK, home=self.address), Path(name).stem
        self.page, self.rest = self.v.page, None  # what the pictures looked like when they were last still
        self.ask(
            dict(path=name, name=name, type='notebook', kernel=dict(name='python3'))
        )  # a kernel that waits for the page: on a busy machine the page may be first, and asks which kernel to take
        self.page.goto(f'{self.address}/lab/workspaces/{self.name}/tree/{name}?reset')
        self.page.wait_for_selector('.jp-Notebook .jp-Cell')
        wait(self.connected, 90, lambda: f'{name} was given no kernel: {self.ask()}')
        self.settle()
        self.page.keyboard.press('Control+b')  # the file browser closes, the notebook gets the whole width

    def ask(self, new=None):
        "The server's sessions, or a new one"
        request = urllib.request.Request(f'{self.address}/api/sessions', new and json.dumps(new).encode())
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer)

    def connected(self):
        "Do page and server both say that this notebook has its kernel?"
        named = self.page.locator('.jp-KernelName').inner_text() != 'No Kernel'
        return named and any(s['path'] == self.file and s['kernel']['connections'] for s in self.ask())

    def settle(self):
        "Wait until the kernel has nothing left to do"
        self.page.wait_for_function(
            "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'"
        )

    def run(self, seconds=60):
        "Run all cells and wait for the last; no cell may show an error"
        prompts = self.page.locator('.jp-CodeCell .jp-InputPrompt')
        told = lambda n: prompts.nth(n).inner_text().strip('[]: \xa0')
        first, last = told(0), told(-1)  # numbers, if the cells have been run before
        for _ in range(3):  # a click that comes before the kernel is connected is lost
            dialogs = self.page.locator('.jp-Dialog').all_inner_texts()
            assert not dialogs, f'{self.name}: JupyterLab asks {dialogs}'
            self.page.get_by_role('menuitem', name='Run', exact=True).click()
            self.page.locator('.lm-Menu-itemLabel').get_by_text('Run All Cells', exact=True).click()
            if poll(lambda: told(0) != first, 40):
                break
        wait(
            lambda: (told(-1).isdigit() and told(-1) != last) or self.errors(),
            seconds,
            lambda: f'{self.name} did not finish within {seconds} s',
        )
        assert not self.errors(), self.errors()

    def errors(self):
        "What cells and widgets show as errors"
        return [e.inner_text()[-600:] for e in self.page.locator(', '.join(ERRORS)).all()]

    def controls(self):
        "All that can be changed: the visible boxes of ipywidgets that hold one input"
        return [c for c in self.page.locator(', '.join(CONTROLS)).all() if c.is_visible()]

    def label(self, control):
        "What the reader is told about a control"
        texts = [
            *control.locator('.widget-label, .widget-label-basic').all_inner_texts(),
            control.inner_text(),
            control.get_attribute('title') or '',
        ]
        return next(filter(None, (t.strip('\u200b \n') for t in texts)), '')

    def looks(self):
        """A digest of every picture that the outputs show: of its bytes, since its address changes with every drawing.
        One that is there twice, as while it is drawn anew, counts once"""
        return [*dict.fromkeys(self.page.evaluate(DIGESTS))]

    def still(self, seconds=20):
        "What the pictures look like once nothing is being drawn any more"
        self.settle()
        seen = [self.looks()]

        def rests():
            self.page.wait_for_timeout(500)
            seen.append(self.looks())
            return seen[-1] and seen[-1] == seen[-2]

        poll(rests, seconds)
        self.rest = seen[-1]
        return self.rest

    def others(self, before):
        "Are these other pictures than before, and not only because one is being drawn? None at all are no others"
        return self.looks() != before and self.still() not in ([], before)

    def change(self, control, seconds=30):
        "Use a control as a reader would, and wait until a picture is another one"
        label = self.label(control)
        assert label, f'{self.name}: a control without a label'
        control.scroll_into_view_if_needed()
        before = self.rest if self.looks() == self.rest else self.still()
        use(control)
        wait(lambda: self.others(before), seconds, lambda: f'{self.name}: {label!r} changes no picture')
        assert not self.errors(), self.errors()
        return label


ERRORS = [
    '[data-mime-type="application/vnd.jupyter.error"]',
    '[data-mime-type="application/vnd.jupyter.stderr"]',
    '.jp-RenderedText[data-mime-type*=error]',
]

DIGESTS = """() => {
    const images = [...document.querySelectorAll('.jp-OutputArea-output img')];
    const shown = images.filter(i => i.offsetParent && i.naturalWidth);
    return Promise.all(shown.map(async i => {
        const bytes = await (await fetch(i.src)).arrayBuffer();
        const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
        return [...digest].map(b => b.toString(16)).join('');
    }));
}"""

CONTROLS = [
    '.widget-dropdown',
    '.widget-slider',
    '.widget-toggle-buttons',
    '.widget-checkbox',
    '.widget-select',
    '.widget-text',
    'button.widget-button',
    'button.widget-toggle-button:not(.widget-toggle-buttons *)',
]


def use(control):
    "Another choice, a step to the side, a tick or a press"
    kind = control.get_attribute('class')
    if 'widget-dropdown' in kind or 'widget-select' in kind:
        box = control.locator('select')
        chosen, count = box.evaluate('s => [s.selectedIndex, s.options.length]')
        box.select_option(index=(chosen + 1) % count)
    elif 'slider' in kind:
        handle = control.locator('.noUi-handle').first
        at_end = handle.get_attribute('aria-valuenow') == handle.get_attribute('aria-valuemax')
        handle.focus()
        handle.press('ArrowLeft' if at_end else 'ArrowRight')
    elif 'toggle-buttons' in kind:
        control.locator('button:not(.mod-active)').first.click()
    elif 'checkbox' in kind:
        control.locator('input').click()
    elif 'widget-text' in kind:
        control.locator('input').press('ArrowUp')
    else:
        control.click()


# ---- the driver itself

# drawn as the views draw: a figure of pyplot is also shown by whatever message another thread of the kernel takes,
# half drawn, so that a picture of the same values looked different in 3 runs of 31
SMALL = '''
import io, ipywidgets as w
from matplotlib.figure import Figure
parts = dict(
    bars=w.IntSlider(3, 1, 9, description='Bars'),
    colour=w.Dropdown(options=['C0', 'C1'], description='Colour'),
    grid=w.Checkbox(False, description='Grid'),
    kind=w.ToggleButtons(options=['bar', 'barh'], description='Kind'),
    dead=w.Dropdown(options=['a', 'b'], description='Dead'),
)
picture = w.Image()
def draw(_=None):
    fig, out = Figure(figsize=(4, 2)), io.BytesIO()
    ax, bars = fig.subplots(), range(parts['bars'].value)
    getattr(ax, parts['kind'].value)(bars, bars, color=parts['colour'].value)
    ax.grid(parts['grid'].value)
    fig.savefig(out)
    picture.value = out.getvalue()
for part in parts.values(): part.observe(draw, 'value')
draw()
w.VBox([*parts.values(), picture])
'''
ONCE = '''
if 'ran' in globals():
    undefined
ran = True
'''


def test_the_driver_sees(visit, lab):
    "Live controls change the picture, a dead one is found out, and so is an error"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(s) for s in (SMALL, ONCE)],
            metadata=dict(kernelspec=dict(name='python3', display_name='python3')),
        ),
        lab[1] / 'works.ipynb',
    )
    book = Notebook(visit, lab, 'works.ipynb')
    book.run()
    done = {book.label(c): c for c in book.controls()}
    assert list(done) == ['Bars', 'Colour', 'Grid', 'Kind', 'Dead']
    for label in ('Bars', 'Colour', 'Grid', 'Kind'):
        book.change(done[label])
    book.v.shot('lab-driver')
    with pytest.raises(pytest.fail.Exception, match="'Dead' changes no picture"):
        book.change(done['Dead'], seconds=2)
    with pytest.raises(AssertionError, match='NameError'):
        book.run()  # its last cell fails when it is run again


# ---- the explorer

LATER = re.compile(r'Steps per press|Motor \d+|Refresh')  # these act with the next press, or when the run has gone on


def test_explorer(visit, lab):
    "The explorer's page: all cells run, every view shows pictures, and every control of every view changes one"
    book = Notebook(visit, lab, '96_explore.ipynb')
    book.run(240)
    tabs = book.page.locator('.widget-tab .lm-TabBar-tab')
    names = tabs.all_inner_texts()
    assert names == ['Clusters', 'Routing', 'Rollouts', 'Progress', 'Play the dream']
    for i, name in enumerate(names[:-1]):
        tabs.nth(i).click()
        tabs.nth(i).scroll_into_view_if_needed()
        view = f'img.mow-{name.split()[0].lower()}'
        wait(
            lambda: book.page.eval_on_selector_all(view, 'all => all.some(i => i.offsetParent && i.naturalWidth)'),
            60,
            lambda: f'{name} shows no picture',
        )
        book.settle()
        assert not book.page.eval_on_selector_all(
            view, 'all => all.filter(i => i.offsetParent && !i.naturalWidth).length'
        ), f'{name} shows the frame of a picture that is not there'
        book.v.shot(f'explorer-{i}-{name.split()[0].lower()}')
        controls = {book.label(c): c for c in book.controls() if not LATER.fullmatch(book.label(c))}
        for label in controls:
            book.change(controls[label])
        book.v.shot(f'explorer-{i}-{name.split()[0].lower()}-changed')
    points_and_picks(book.page, tabs)
    book.settle()
    book.v.shot('explorer-picked')
    assert not book.v.wrong, book.v.wrong


def points_and_picks(page, tabs):
    "Hovering over the matrix tells a cosine, a click there is a highlight in all views, and a picture can be enlarged"
    tabs.nth(0).click()
    matrix = page.locator('img.mow-clusters').first
    box = matrix.bounding_box()
    field = dict(x=0.2 * box['width'], y=0.45 * box['height'])  # second column, fourth row
    matrix.hover(position=field)
    told = page.locator('.mow-told', has_text='cosine').first
    wait(told.is_visible, 10, lambda: 'hovering over the matrix tells nothing')
    task = told.inner_text().split(' and ')[0]
    menu = page.locator('.widget-dropdown', has_text='Highlight in clusters').locator('select')
    if menu.input_value() == task:  # a click on what is highlighted takes the highlight away
        menu.select_option('(none)')
    matrix.click(position=field)
    for i, label in enumerate(('Highlight in clusters', 'Highlight in routing')):
        tabs.nth(i).click()
        chosen = page.locator('.widget-dropdown', has_text=label).locator('select').input_value
        wait(lambda: chosen() == task, 20, lambda: f'{label}: {chosen()} instead of {task}')
    tabs.nth(0).click()
    page.get_by_label('Draw larger').locator('visible=true').first.click()
    assert matrix.bounding_box()['width'] > 1.4 * box['width']


# ---- as `mow explore` opens it


@pytest.fixture(scope='module')
def address(tmp_path_factory):
    """`mow explore` on the example and a copy of it, with directories of its own, until it would open a browser.

    Gives (address, folder)
    """
    home = tmp_path_factory.mktemp('explore')
    shipped = ROOT / 'mow_nb' / 'data' / 'example'
    shutil.copytree(shipped, home / 'runs' / 'copy', ignore=shutil.ignore_patterns('agent'))
    port = free_port()
    browser = home / 'browser.sh'
    browser.write_text(f'#!/bin/sh\necho "$1" > {home}/opened\n')
    browser.chmod(0o755)
    root = f'--root={home / "runs"}'
    command = [sys.executable, '-m', 'mow_nb', 'explore', 'example', 'copy', root, f'--port={port}']
    with served(command, home, BROWSER=str(browser)) as log:
        told = lambda: f'the browser was not opened:\n{log.read_text()[-2000:]}'
        wait(lambda: (home / 'opened').exists(), 150, told)
        yield re.search(rf'http://127\.0\.0\.1:{port}/\S+token=\S+', log.read_text())[0], home / 'runs'


SMALL_SCREEN = dict(viewport=dict(width=1024, height=700))
CANVASES = "[...document.querySelectorAll('.mow-stage canvas')].map(c => c.toDataURL())"
CELLS = "[...document.querySelectorAll('.jp-Cell')].map(c => c.querySelector('.jp-InputArea')?.innerText)"
SIDEWAYS = """[...document.querySelectorAll('html, .jp-WindowedPanel-outer, .jp-OutputArea-output, .mow-game')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className || e.tagName)"""


def opened(visit, address, shape):
    "The page as a user gets it: nothing is pressed until the first picture is there"
    v = visit(shape, home=address.split('/doc')[0])
    v.page.goto(address)
    v.page.wait_for_selector('#mow-loading')
    seen = "[...document.querySelectorAll('img.mow-clusters')].some(i => i.offsetParent && i.naturalWidth)"
    v.page.wait_for_function(seen)
    wait(lambda: not v.page.locator('#mow-loading').count(), 20, lambda: 'the sign stays')
    return v


def steps(page, n):
    "Wait until the game has made n steps"
    page.wait_for_function(f"document.querySelector('.mow-game')?.dataset.steps === '{n}'")


def two_runs(v):
    "A second run is named, and drawn beside the first in Progress, also with a panel per task"
    assert 'copy' in v.page.get_by_text('beside it in Progress').inner_text()
    v.page.locator('.widget-tab .lm-TabBar-tab', has_text='Progress').click()
    picture = v.page.locator('img.mow-progress').first
    wait(lambda: picture.is_visible(), 30, lambda: 'Progress shows no picture')
    before = picture.get_attribute('src')
    v.page.locator('.widget-dropdown', has_text='Scale').locator('select').select_option('a panel per task')
    wait(lambda: picture.get_attribute('src') != before, 30, lambda: 'Scale changes no picture')
    v.shot('explore-two-runs')
    assert not v.page.evaluate(SIDEWAYS), v.page.evaluate(SIDEWAYS)


def in_the_dark(v):
    "Game and views can be read by everybody, in the light and where the system asks for dark pages"
    v.is_accessible('.jp-OutputArea-output')
    curves = v.page.locator('.mow-curves')
    before = curves.evaluate('c => c.toDataURL()')
    curves.evaluate("c => { c.style.display = 'none' }")  # as JupyterLab does with all of the page at times
    v.page.emulate_media(color_scheme='dark')
    v.page.wait_for_selector('body[data-jp-theme-light="false"]', state='attached')
    v.page.wait_for_timeout(300)
    curves.evaluate("c => { c.style.display = '' }")
    wait(lambda: curves.evaluate('c => c.toDataURL()') != before, 20, lambda: 'dark curves on a dark page')
    tabs = v.page.locator('.widget-tab .lm-TabBar-tab')
    for i in range(tabs.count()):
        tabs.nth(i).click()
        v.page.wait_for_timeout(300)
        v.shot(f'explore-dark-{i}')
        v.is_accessible('.jp-OutputArea-output')


def test_opens_by_itself(visit, address):
    "No code, no side bar, no dialog; the game takes 40 keys, and the notebook is as it was; cells of one's own stay"
    v = opened(visit, address[0], SMALL_SCREEN)
    page, file = v.page, address[1] / 'explore-example-with-copy.ipynb'
    before, written = page.evaluate(CELLS), file.read_text()
    assert not page.locator('.jp-Dialog').count()
    assert not page.locator('.jp-SideBar:visible').count()
    assert not page.locator('.jp-CodeCell .cm-content:visible').count(), 'code is shown'
    v.shot('explore-opened')
    v.is_accessible('.jp-OutputArea-output')
    two_runs(v)
    page.locator('.widget-tab .lm-TabBar-tab').last.click()
    steps(page, 0)
    pictures = page.evaluate(CANVASES)
    page.locator('.mow-stage').click()
    for key in 10 * ['ArrowLeft', ' ', 'ArrowRight', 'ArrowUp']:
        page.keyboard.press(key)
    steps(page, 40)
    for key in 'ddaxbz':  # each of these would do something to a notebook's cell
        page.keyboard.press(key)
    after = page.evaluate(CANVASES)
    assert after[0] != pictures[0] and after[1] != pictures[1]
    assert page.evaluate(CELLS) == before and file.read_text() == written
    assert not page.evaluate(SIDEWAYS), page.evaluate(SIDEWAYS)
    v.shot('explore-played')
    page.keyboard.press('Backspace')
    steps(page, 39)
    page.keyboard.down('ArrowLeft')  # held: it repeats
    page.wait_for_function("+document.querySelector('.mow-game').dataset.steps > 42")
    page.keyboard.up('ArrowLeft')
    page.get_by_label('The agent plays').select_option('both')
    page.keyboard.press('p')  # the clock goes by itself
    page.wait_for_function("+document.querySelector('.mow-game').dataset.steps > 50")
    page.keyboard.press('Home')
    steps(page, 0)
    page.wait_for_timeout(500)
    assert page.evaluate(CANVASES) == pictures
    with page.expect_download() as film:
        page.get_by_role('button', name='Save as GIF').click()
    assert film.value.suggested_filename == 'Assault.gif'
    page.get_by_label('Task to play').select_option('Pong')
    page.wait_for_function("document.querySelector('.mow-moves').innerText.includes('NOOP')")
    wait(lambda: 'plays up' not in page.locator('.mow-words').inner_text(), 60, lambda: 'Pong does not begin')
    page.wait_for_timeout(500)  # curves are drawn five times a second at most
    in_the_dark(v)
    assert not v.wrong, v.wrong
    nb = nbformat.read(file, 4)
    nb.cells.append(nbformat.v4.new_code_cell('my_own = 1'))
    nbformat.write(nb, file)
    again = opened(visit, address[0], DESK)
    assert 'my_own = 1' in again.page.evaluate(CELLS)[-1]
    assert not again.wrong, again.wrong
