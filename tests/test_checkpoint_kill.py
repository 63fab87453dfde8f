"A process that saves without pause is killed with SIGKILL at random moments: what it leaves must always load."

import signal
import subprocess
import sys
import time

import pytest

from mow_nb.core import np_rng
from mow_nb.store.checkpoint import checkpoints, load

KILLS = 6

# every tensor of checkpoint s is filled with s, so a mixture of two checkpoints would show
SAVER = '''
import sys, torch
from mow_nb.store.checkpoint import load, save
root = sys.argv[1]
torch.set_num_threads(1)
start = load(root)
step = start.step if start else 0
print('ready', flush=True)
while True:
    step += 1
    tensors = {'dyn.w': torch.full((200_000,), float(step)), 'emb': torch.full((4, 3), float(step))}
    tensors |= {f'vae.members.{c}.w': torch.full((1000,), float(step)) for c in range(3)}
    save(root, step, tensors, dict(step=step), per_task={'emb'})
    print(step, flush=True)
'''


def kill_after(root, seconds, saved=False):
    "Let a saver run for some time (`saved`: from its first checkpoint on), kill it; the last step that it reported"
    said = ''
    child = subprocess.Popen(
        [sys.executable, '-c', SAVER, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        first = child.stdout.readline()
        if first.strip() != 'ready':
            pytest.fail(child.stderr.read())
        if saved:
            said = child.stdout.readline()
        time.sleep(seconds)
    finally:
        child.send_signal(signal.SIGKILL)
        said = (said + child.communicate()[0]).split()
    return int(said[-1]) if said else None


def test_killed_saver_never_harms(tmp_path):
    root, rng, last = tmp_path / 'checkpoints', np_rng(0, 'kill'), 0
    for i in range(KILLS):
        said = kill_after(root, rng.uniform(0.02, 0.4), saved=i == KILLS - 1)
        last = said or last
        got = load(root)
        assert not list(root.glob('damaged-*')), 'a kill must not look like damage'
        if got is None:
            assert last == 0, 'a reported checkpoint is gone'
            continue
        assert got.step >= last, 'load went behind a reported checkpoint'
        assert got.extra == dict(step=got.step)
        for name, t in got.tensors.items():
            assert (t == got.step).all(), name
        last = got.step
    assert last > 0 and 1 <= len(checkpoints(root)) <= 3
