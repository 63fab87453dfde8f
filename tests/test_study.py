"""A study that is stopped saves its trainings; the results that are kept say how they are made again."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from book import ROOT

from mow_nb.config import flat
from mow_nb.eval.study_file import jobs_of, read_study, study_names
from mow_nb.store.checkpoint import checkpoints
from mow_nb.store.journal import read_metrics
from mow_nb.store.presets import preset
from mow_nb.store.run_folder import lock_run
from mow_nb.tools.options import parse_options

STUDY = """question = "how does it end?"
reference = "full"
seeds = [0]
[change]
"train.save_every" = 100000
"train.env_steps" = 4000
[variants]
full = "toy"
"""


@pytest.mark.parametrize(
    ('stop', 'number'),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],
    ids=['ctrl-c, which every process of the terminal hears', 'a signal to the study alone'],
)
def test_stopped(stop, number, tmp_path, popen):
    "Nothing that was learned is lost, and nobody trains on"
    (tmp_path / 'own.toml').write_text(STUDY)
    words = [sys.executable, '-m', 'mow_nb', 'study', 'own.toml']
    study = popen(words, cwd=tmp_path, start_new_session=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    run, end = tmp_path / 'runs' / 'own-full-seed0', time.monotonic() + 120
    while not (run / 'metrics.jsonl').exists() or len(read_metrics(run)) < 4:
        assert time.monotonic() < end and study.poll() is None
        time.sleep(0.2)
    stop(study.pid, number)
    assert study.wait(60) == 128 + number
    newest = int(checkpoints(run / 'checkpoints')[0].name.removeprefix('step-'))
    assert newest >= read_metrics(run)[-1]['updates']
    with lock_run(run):  # refused where somebody still trains
        pass
    assert not [*(tmp_path / 'results').rglob('*.json')]


def test_tasks_of_ones_own(tmp_path):
    "What `--import` has brought to a study is there for its trainings too"
    (tmp_path / 'mine.py').write_text(
        f'import sys\nsys.path.append({str(Path(__file__).parent)!r})\n'
        "import odd\nfrom mow_nb import register\nregister('own', odd.Own, n_actions=3)\n"
    )
    short = '"train.env_steps" = 40\ntasks = "own"\n"cluster.n" = 1\n[variants]'
    own = STUDY.replace('"train.env_steps" = 4000\n[variants]', short)
    (tmp_path / 'own.toml').write_text(own)
    words = [sys.executable, '-m', 'mow_nb', '--import', 'mine', 'study', 'own.toml']
    said = subprocess.run(
        words, cwd=tmp_path, env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    assert (tmp_path / 'results' / 'own' / 'own-full-seed0.json').exists()


def test_commands_of_results():
    "The command in every kept result trains its config today, and not what a preset was on that day"
    kept = 0
    for name in study_names():
        for job in jobs_of(read_study(name)):
            file = ROOT / 'results' / name / f'{job.name}.json'
            if not file.exists():
                continue
            words = shlex.split(json.loads(file.read_text())['command'])
            assert words[:2] == ['mow', 'train'] and words[3:5] == ['--name', job.name], file
            config = preset(words[2])
            table = flat(config) | parse_options(words[5:], config)
            assert table == flat(job.config), file
            kept += 1
    assert kept > 100
