"""Meta-World's own players reach their goal through the same door as our agent.

That is: shared action vector, worker process, pictures, repeat.
"""

import numpy as np
import pytest

from mow_nb.core import N_DISCRETE
from mow_nb.envs.metaworld import StateEnv, expert_action
from mow_nb.envs.tasks import tasks_of
from mow_nb.envs.vector import make_env


@pytest.mark.parametrize('name', ['reach-v3', 'drawer-close-v3', 'button-press-topdown-v3'])
def test_expert(name):
    "The player reads the state of a twin without a camera; its actions reach the robot as our agent's do"
    (task,) = tasks_of(f'mt1:{name}')
    env, twin = make_env(task), StateEnv(name)
    env.reset(3), twin.reset(seed=3)
    success, steps = 0.0, 0
    while not success:
        move, steps = expert_action(twin), steps + 1
        _, rew_twin, *_ = twin.step(move)
        obs, rew, terminated, truncated, info = env.step(np.r_[np.zeros(N_DISCRETE), move].astype(np.float32))
        assert obs.shape == (64, 64, 3) and not (terminated or truncated), f'{name}: not reached in {steps} steps'
        assert rew == pytest.approx(rew_twin, rel=1e-4)
        success = info['success']
    env.close(), twin.close()
