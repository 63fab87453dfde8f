"An environment that misbehaves on request, in a module of its own so that a worker process can import it."

import os
import sys
import time

import gymnasium as gym
import numpy as np


def crash():
    os.kill(os.getpid(), 11)


def hang():
    time.sleep(1e6)


class Faulty(gym.Env):
    "Shows its clock; `schedule` says what goes wrong at which step of the process, as {step: what}"

    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)

    def __init__(self, schedule=None, length=100):
        self.schedule, self.length, self.steps = schedule or {}, length, 0

    def picture(self):
        return np.full((16, 16, 3), self.clock % 256, np.uint8)

    def reset(self, seed=None, options=None):
        self.clock, self.t = int(seed), 0
        return self.picture(), {}

    def step(self, action):
        self.steps, self.clock, self.t = self.steps + 1, self.clock + 1, self.t + 1
        what = self.schedule.get(self.steps)
        if what == 'raise':
            raise RuntimeError('as asked')
        if what == 'crash':
            crash()
        if what == 'exit':
            os._exit(7)
        if what == 'hang':
            hang()
        if what == 'spin':
            sys.setswitchinterval(1e6)
            exec('while True: pass')
        reward = float('nan') if what == 'nan' else 1.0
        return self.picture(), reward, False, self.t >= self.length, dict(torch='torch' in sys.modules, pid=os.getpid())
