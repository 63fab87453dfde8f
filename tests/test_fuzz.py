"""Runs and shared agents that were damaged at random: only a `MowError` comes out, and nothing outside is touched.

A few seconds here; `python tests/fuzz.py --seconds 600` for minutes."""

import os
from pathlib import Path

import fuzz


def test_group_2_fuzz():
    "group 2, foreign directories: damaged copies of a run are read, or refused in one line"
    f = fuzz.fuzz(times=6, seed=1, slow_every=6)
    assert not f.faults, '\n'.join(map(str, f.faults))
    assert f.counts['directories'] == 6 and f.counts['read'] > 6 and f.counts['refused'] > 3


def test_the_watch_sees(tmp_path):
    "The check above is not blind: reading and writing outside is noted, through links too"
    box, outside = tmp_path / 'box', tmp_path / 'outside'
    box.mkdir()
    outside.mkdir()
    (outside / 'secret').write_text('x')
    (box / 'link').symlink_to(outside / 'secret')
    for touch in (
        lambda: (box / 'link').read_text(),
        lambda: (tmp_path / 'new').write_text('x'),
        lambda: os.rename(tmp_path / 'new', tmp_path / 'newer'),
        lambda: list(os.scandir(outside)),
    ):
        with fuzz.watched(box, outside) as broken:
            touch()
        assert len(broken) >= 1
    with fuzz.watched(box, outside) as broken:
        (box / 'mine').write_text('x')
        Path(__file__).read_text()
    assert not broken
