"Mixture-of-World Models: one agent that learns many visual tasks by dreaming"

__version__ = "0.1.0"

import os
from importlib import import_module

# read by OpenMP when PyTorch is loaded: a thread that waits shall soon sleep (chapter 08)
if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ.setdefault('GOMP_SPINCOUNT', '10000')

_HOMES = {
    'agent.player': ('Agent',),
    'envs.check_env': ('check_env',),
    'envs.tasks': ('register', 'tasks_of'),
    'eval.evaluation': ('score_rows', 'score_text'),
    'config': ('Config',),
    'store.presets': ('changed', 'preset'),
    'training.later': ('add_task', 'drop_task'),
    'training.run': ('train',),
    'training.share': ('evaluate', 'from_pretrained', 'load', 'save_pretrained'),
    'view.explorer': ('explore',),
    'view.report': ('write_report',),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
    # late, so that a process which only steps environments never loads PyTorch
    if name not in _HOME:
        raise AttributeError(f"module 'mow_nb' has no attribute '{name}'")
    from mow_nb.core import explain  # `help` shows what each parameter means

    return explain(getattr(import_module(f'mow_nb.{_HOME[name]}'), name))


def __dir__():
    return __all__
