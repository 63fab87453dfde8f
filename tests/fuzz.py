"""Damage runs and shared agents at random: only a `MowError` may come out, and nothing outside may be touched.

usage: python tests/fuzz.py [--seconds 60] [--seed 0]     prints a table; exit code 1 if anything else came out
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from mow_nb.core import MowError, np_rng
from mow_nb.eval.evaluation import load_records
from mow_nb.eval.rollouts import load_strips
from mow_nb.files import plain_tree
from mow_nb.store.journal import read_metrics
from mow_nb.store.presets import preset
from mow_nb.store.run_folder import read_config
from mow_nb.training.check import check_run
from mow_nb.training.clustering import load_analysis
from mow_nb.training.run import train
from mow_nb.training.share import from_pretrained, load, save_pretrained
from mow_nb.view.report import write_report

# ---- what may be touched

WATCH = dict(box=None, outside=None, broken=[])
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {
    'os.rename': 2,
    'os.remove': 1,
    'os.mkdir': 1,
    'os.rmdir': 1,
    'os.truncate': 1,
    'os.link': 2,
    'os.symlink': 2,
}


def real(path, nofollow=False):
    "Where a path leads; with O_NOFOLLOW its last part is not followed"
    path = os.path.abspath(os.fsdecode(path))
    if nofollow:
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.path.realpath(path)


def hook(event, args):
    "Note every file outside of the box that is written, and every one of the forbidden directory that is read"
    if WATCH['box'] is None or event != 'open' and event not in CHANGES and event != 'os.scandir':
        return
    paths = [p for p in args[: CHANGES.get(event, 1)] if isinstance(p, (str, bytes, os.PathLike))]
    flags = args[2] if event == 'open' and isinstance(args[2], int) else 0
    for path in paths:
        where = real(path, flags & os.O_NOFOLLOW or event != 'open' and event != 'os.scandir')
        writes = event in CHANGES or event == 'open' and flags & WRITES
        inside = where == WATCH['box'] or where.startswith(WATCH['box'] + os.sep)
        forbidden = where.startswith(WATCH['outside'])
        if forbidden or writes and not inside and not where.startswith(('/dev/', '/proc/')):
            WATCH['broken'].append(f'{event} {where}')


sys.addaudithook(hook)


@contextlib.contextmanager
def watched(box, outside):
    "Keep an eye on every file that this process opens"
    WATCH.update(box=str(box.resolve()), outside=str(outside.resolve()), broken=[])
    try:
        yield WATCH['broken']
    finally:
        WATCH['box'] = None


# ---- damage

ODD = [None, -1, 0, 10**30, 1e308, float('nan'), 'x', '', [], {}, True, '../../outside/secret', '/etc/passwd', [[]] * 3]


def files_of(run):
    return sorted(p for p in run.rglob('*') if p.is_file() and not p.is_symlink())


def truncate(rng, run, file, outside):
    os.truncate(file, int(rng.integers(0, max(1, file.stat().st_size))))


def extend(rng, run, file, outside):
    with open(file, 'ab') as f:
        f.write(rng.bytes(int(rng.integers(1, 3000))))


def flip(rng, run, file, outside):
    raw = bytearray(file.read_bytes())
    for _ in range(int(rng.integers(1, 9)) if raw else 0):
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    file.write_bytes(raw)


def overwrite(rng, run, file, outside):
    raw = bytearray(file.read_bytes())
    if raw:
        at = int(rng.integers(len(raw)))
        raw[at : at + 64] = rng.bytes(min(64, len(raw) - at))
    file.write_bytes(raw)


def delete(rng, run, file, outside):
    file.unlink()


def delete_folder(rng, run, file, outside):
    shutil.rmtree(file.parent) if file.parent != run else file.unlink()


def exchange(rng, run, file, outside):
    other = files_of(run)
    other = other[rng.integers(len(other))]
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b)
    other.write_bytes(a)


def as_folder(rng, run, file, outside):
    file.unlink()
    file.mkdir()


def as_link(rng, run, file, outside):
    file.unlink()
    file.symlink_to([outside / 'secret', outside, file, Path('/etc/hostname')][rng.integers(4)])


def folder_as_link(rng, run, file, outside):
    if file.parent != run:
        shutil.rmtree(file.parent)
        file.parent.symlink_to(outside)


def as_pipe(rng, run, file, outside):
    file.unlink()
    os.mkfifo(file)


def copied(rng, run, file, outside):
    shutil.copy(file, file.with_name(f'step-{rng.integers(10**9):09d}{file.suffix}'))


def header(rng, run, file, outside):
    "A header that announces far more than there is"
    raw = bytearray(file.read_bytes())
    if file.suffix == '.npy':
        raw = raw.replace(b"'shape': (", b"'shape': (9999999", 1)
    elif len(raw) > 8:
        raw[:8] = int([2**62, 2**33, 10**7, 0][rng.integers(4)]).to_bytes(8, 'little')
    file.write_bytes(raw)


def leaves(x, path=()):
    if isinstance(x, (dict, list)) and x and len(path) < 8:
        for k, v in x.items() if isinstance(x, dict) else enumerate(x):
            yield from leaves(v, (*path, k))
    yield path


def odd_json(rng, run, file, outside):
    "An odd value somewhere in plain data; a manifest gets a right sum, and lists what it signs as it is"
    plain = [p for p in files_of(run) if p.suffix == '.json'] + [run / 'metrics.jsonl'] * (
        run / 'metrics.jsonl'
    ).is_file()
    if not plain:
        return
    file = plain[rng.integers(len(plain))]
    lines = file.read_text().splitlines() if file.suffix == '.jsonl' else [file.read_text()]
    n = int(rng.integers(len(lines)))
    tree = json.loads(lines[n])
    where = [p for p in leaves(tree) if p]
    *way, last = where[rng.integers(len(where))]
    spot = tree
    for key in way:
        spot = spot[key]
    if rng.random() < 0.2 and isinstance(spot, dict):
        spot.pop(last)
    else:
        spot[last] = ODD[rng.integers(len(ODD))] if rng.random() < 0.9 else json.loads('[' * 900 + ']' * 900)
    lines[n] = json.dumps(tree)
    file.write_text('\n'.join(lines))
    sign(file, tree)


def digest(raw):
    "What a manifest says of a file"
    return dict(size=len(raw), sha256=hashlib.sha256(raw).hexdigest())


def signed(body):
    "A manifest as it is written, by somebody who knows how"
    text = json.dumps(body, sort_keys=True)
    whole = dict(body=body, sha256=hashlib.sha256(text.encode()).hexdigest())
    return (json.dumps(whole, sort_keys=True, indent=1) + '\n').encode()


def sign(file, tree):
    "Make manifests agree with what was done"
    if file.name == 'manifest.json':
        if isinstance(tree, dict) and 'body' in tree:
            file.write_bytes(signed(tree['body']))
    elif (manifest := file.with_name('manifest.json')).is_file():
        body = json.loads(manifest.read_text())['body']
        if file.name in body['files']:
            body['files'][file.name] = digest(file.read_bytes())
            manifest.write_bytes(signed(body))


def odd_toml(rng, run, file, outside):
    "An odd value in the config"
    configs = [p for p in files_of(run) if p.name == 'config.toml']
    if not configs:
        return
    file = configs[rng.integers(len(configs))]
    lines = file.read_text().splitlines()
    n = int(rng.integers(len(lines)))
    odd = ['inf', '-1', '0', '10000000', '"x"', '[]', '{a = 1}', 'true', '9' * 5000, '[' * 2000, '""', '1e308', '\x00']
    lines[n] = f"{lines[n].partition('=')[0]}= {odd[rng.integers(len(odd))]}" if rng.random() < 0.8 else ''
    file.write_text('\n'.join(lines))
    sign(file, None)


DAMAGES = [
    truncate,
    extend,
    flip,
    overwrite,
    delete,
    delete_folder,
    exchange,
    as_folder,
    as_link,
    folder_as_link,
    as_pipe,
]
DAMAGES += [copied, header, odd_json, odd_json, odd_toml, odd_toml]

# ---- readers


def resume(run):
    train(preset('toy'), run.name, run.parent, resume=True, quiet=True)


READERS = dict(
    config=read_config,
    check=lambda run: [*check_run(run)],
    load=load,
    metrics=read_metrics,
    evaluations=lambda run: load_records(plain_tree(run) / 'eval'),
    analysis=lambda run: load_analysis(plain_tree(run) / 'analysis'),
    strips=lambda run: load_strips(plain_tree(run) / 'analysis' / 'strips.npz'),
    agent=lambda run: from_pretrained(run / 'agent'),
)
SLOW = dict(report=lambda run: write_report(run), resume=resume)  # these write, so they come last


class Stuck(BaseException):
    "Somebody waits for ever; no reader may take it for damage"


def stuck(*_):
    raise Stuck


def tree_hash(folder):
    h = hashlib.sha256()
    for p in sorted(folder.rglob('*')):
        h.update(f'{p} {p.stat().st_size} {p.stat().st_mtime_ns}'.encode() + (p.read_bytes() if p.is_file() else b''))
    return h.hexdigest()


class Fuzz:
    "One undamaged run, and what happened to its copies"

    def __init__(self, root, seed=0):
        self.root, self.rng = Path(root), np_rng(seed, 'fuzz')
        self.good = train(preset('toy'), 'good', self.root, quiet=True)
        save_pretrained(load(self.good), read_config(self.good), self.good / 'agent')
        self.outside = self.root / 'outside'
        self.outside.mkdir()
        (self.outside / 'secret').write_text('nobody may read this')
        self.counts, self.faults = collections.Counter(), []

    def once(self, n, slow=True):
        "Damage a copy in one to three ways, and let everybody read it"
        box = self.root / f'box-{n}'
        run = Path(shutil.copytree(self.good, box / 'x'))
        before, done = tree_hash(self.outside), []
        for _ in range(int(self.rng.integers(1, 4))):
            files = files_of(run)
            if not files:
                break
            damage, file = DAMAGES[self.rng.integers(len(DAMAGES))], files[self.rng.integers(len(files))]
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError):
                damage(self.rng, run, file, self.outside)
            done.append(f'{damage.__name__} {file.relative_to(run)}')
            self.counts['damages'] += 1
        for name, read in {**READERS, **(SLOW if slow else {})}.items():
            self.ask(n, done, name, read, run, box)
        if tree_hash(self.outside) != before:
            self.faults.append((n, done, 'outside', 'changed'))
        shutil.rmtree(box)
        self.counts['directories'] += 1

    def ask(self, n, done, name, read, run, box):
        "One reader; what it answers is counted"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.signal(signal.SIGALRM, stuck)
        signal.alarm(300)
        try:
            with watched(box, self.outside) as broken, contextlib.redirect_stderr(io.StringIO()):
                with np.errstate(all='ignore'):
                    read(run)
            self.counts['read'] += 1
        except MowError as e:
            self.counts['refused'] += 1
            if '\n' in str(e):
                self.faults.append((n, done, name, f'more than one line: {e}'))
        except KeyboardInterrupt:
            raise
        except BaseException:
            self.faults.append((n, done, name, traceback.format_exc()))
        finally:
            signal.alarm(0)
        if broken:
            self.faults.append((n, done, name, f'touched {broken[:3]}'))
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > peak + 2**20:  # a gigabyte
            self.faults.append((n, done, name, 'took a gigabyte of memory'))


def fuzz(seconds=0, times=0, seed=0, slow_every=1):
    "A `Fuzz` after so many seconds, or so many damaged directories"
    end = time.time() + seconds
    with tempfile.TemporaryDirectory() as root:
        f, n = Fuzz(root, seed), 0
        while n < times or time.time() < end:
            f.once(n, slow_every and n % slow_every == 0)
            n += 1
    return f


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seconds', type=float, default=60)
    p.add_argument('--seed', type=int, default=0)
    own = p.parse_args()
    f = fuzz(own.seconds, seed=own.seed, slow_every=4)
    for n, done, name, what in f.faults:
        print(f"directory {n} ({'; '.join(done)}), {name}:\n{what}\n")
    print(*(f'{k:12} {v:6}' for k, v in f.counts.items()), f"{'faults':12} {len(f.faults):6}", sep='\n')
    return bool(f.faults)


if __name__ == '__main__':
    sys.exit(main())
