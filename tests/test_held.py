"""What held when it was attacked, and shall go on holding ('row 3'). Most of it has its tests elsewhere: kills and
signals in test_resume.py, damaged checkpoints and full disks in chapter 43, pickles in test_book.py, hostile names
in the report's chapter, workers in test_workers.py, the wheel in test_wheel.py, own tasks in test_faults.py."""

import gc

import torch
from test_faults import learner_and_batch


def alive():
    "How many tensors there are, and how many objects"
    gc.collect()
    found = gc.get_objects()
    return sum(torch.is_tensor(x) for x in found), len(found)


def test_row_3_no_leak():
    "row 3: updates leave nothing behind; there are as many tensors and objects after fifteen as after five"
    learner, batch = learner_and_batch()
    counts = []
    for u in range(15):
        learner.update(batch)
        if u in (4, 14):
            counts.append(alive())
    (tensors, objects), (later, more) = counts
    assert later <= tensors + 2 and more <= objects + 200, counts


def test_row_3_the_count_sees():
    "row 3: the count above is not blind"
    before = alive()
    kept = [torch.zeros(3) for _ in range(10)]
    assert alive()[0] == before[0] + len(kept)
