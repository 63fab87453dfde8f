"""The report of a small run, as a browser shows it."""

import pytest

from conftest import DESK, PHONE


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "A page about a run that took seconds"
    from mow_nb import changed, preset, train
    from mow_nb.view.report import write_report

    config = changed(
        preset('toy'), {'train.env_steps': 60, 'eval.episodes': 3, 'eval.max_steps': 30, 'train.eval_every': 20}
    )
    return write_report(train(config, 'small', tmp_path_factory.mktemp('runs'), quiet=True))


def test_report_in_a_browser(report, visit):
    "On a laptop and on a phone all of it is shown; nothing is missing, complains or asks the network"
    for kind, shape in (('desk', DESK), ('phone', PHONE)):
        v = visit(shape)
        v.page.goto(report.as_uri())
        assert v.page.locator('svg').count() > 3
        v.shot(f'report-{kind}')
        v.shot(f'report-{kind}-all', full_page=True)
        for fold in v.page.locator('details > summary').all():
            fold.click()
        v.is_fine()
