"""The report of a small run, and its comparison with another, as a browser shows and prints them."""

import shutil

import pytest

from conftest import DESK, PHONE


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "A page about a run that took seconds, and one that compares it with a copy"
    from mow_nb import changed, preset, train
    from mow_nb.view.report import write_comparison, write_report

    config = changed(preset('toy'), {'train.save_every': 50, 'eval.episodes': 3, 'eval.max_steps': 10})
    run = train(config, 'small', tmp_path_factory.mktemp('runs'), quiet=True)
    other = shutil.copytree(run, run.parent / 'other', ignore=shutil.ignore_patterns('replay', 'checkpoints', 'tb'))
    return dict(report=write_report(run), comparison=write_comparison([run, other]))


PAPER = dict(viewport=dict(width=703, height=1010))  # A4 within the margins of the page, at 96 dots per inch
LOST = """[...document.querySelectorAll('.scroll, .wide, pre, code')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth).length"""


@pytest.mark.parametrize('name', ['report', 'comparison'])
def test_report_in_a_browser(pages, visit, name):
    "On a laptop, on a phone and on paper all of it is shown; nothing is missing, complains or asks the network"
    for kind, shape in (('desk', DESK), ('phone', PHONE)):
        v = visit(shape)
        v.page.goto(pages[name].as_uri())
        assert v.page.locator('svg').count() > 3
        assert v.page.locator('.film img').count() == (3 if name == 'report' else 0)
        v.shot(f'{name}-{kind}')
        v.shot(f'{name}-{kind}-all', full_page=True)
        for fold in v.page.locator('details > summary').all():
            fold.click()
        v.is_fine()
        if kind == 'desk':
            v.page.emulate_media(color_scheme='light' if name == 'report' else 'dark')
            v.is_accessible()
    v = visit(PAPER)
    v.page.emulate_media(media='print', color_scheme='dark')
    v.page.goto(pages[name].as_uri())
    assert v.page.evaluate(LOST) == 0, 'columns or lines are lost on paper'
    assert v.page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert not v.page.locator('.film:visible').count()
    v.is_fine()
