"""Environments that answer oddly, each named after what it does.

They stand in a module of their own so that a worker process can import it.
"""

import sys

import gymnasium as gym
import numpy as np

COLOUR = np.zeros((64, 64, 3), np.uint8)


class Own:
    "Well behaved, and no gymnasium environment: `reset` and `step` are all it has"

    length = 9

    def reset(self, seed=None):
        self.t = 0
        return self.look(), {}

    def step(self, action):
        self.t += 1
        return self.look(), self.reward(), False, self.t >= self.length, self.info()

    def look(self):
        return COLOUR + self.t

    def reward(self):
        return 1.0

    def info(self):
        return {}


def variant(name, **parts):
    return type(name, (Own,), {k: v if callable(v) else (lambda self, v=v: v) for k, v in parts.items()})


def shown(name, obs):
    return variant(name, look=obs)


def out(x):
    raise x


# ---- what is taken

GREY = COLOUR[..., 0]
TAKEN = [
    shown('Grey1', GREY[..., None]),
    shown('Grey', GREY),
    shown('Stack', np.stack([GREY] * 4)),
    shown('StackInColour', np.stack([COLOUR] * 4)),
    shown('ChannelsFirst', COLOUR.transpose(2, 0, 1)),
    shown('Dict', dict(eye=COLOUR, speed=np.ones(2))),
    variant('ArrayReward', reward=np.ones(1)),
    variant('NoInfo', info=None),
    variant('FaultInInfo', info=dict(fault=1)),
    shown('Tall', np.zeros((100, 20, 3), np.uint8)),
    variant('StuckDoor', close=lambda self: out(OSError('stuck'))),
]

# ---- what is refused, and the words that must be in the line

REFUSED = [
    (shown('Floats', COLOUR / 255), 'this one shows float64 (64, 64, 3)'),
    (shown('FourChannels', np.zeros((64, 64, 4), np.uint8)), 'uint8 (64, 64, 4)'),
    (shown('NoRows', COLOUR[:0]), 'uint8 (0, 64, 3)'),
    (shown('TwoPictures', dict(a=COLOUR, b=COLOUR)), 'a dict of a: uint8'),
    (shown('Nothing', None), 'shows nothing'),
    (variant('NoReward', reward=None), 'the reward must be a number'),
    (variant('TwoRewards', reward=np.ones(2)), 'the reward must be a number'),
    (variant('Nan', reward=float('nan')), 'the reward is nan'),
    (variant('ListInfo', info=[]), 'info must be a dict'),
    (variant('OldReset', reset=lambda self, seed=None: COLOUR), 'reset must return'),
    (variant('OldStep', step=lambda self, a: (COLOUR, 1.0, False, {})), 'it returned 4 values'),
    (variant('Raises', step=lambda self, a: out(RuntimeError('two\nlines'))), 'raised RuntimeError: two lines'),
    (variant('Empty', step=lambda self, a: None), 'it returned nothing'),
    (variant('Exits', step=lambda self, a: sys.exit(3)), 'raised SystemExit: 3'),
    (variant('Closes', step=lambda self, a: out(GeneratorExit('over'))), 'raised GeneratorExit: over'),
]
globals().update({c.__name__: c for c in (*TAKEN, *(c for c, _ in REFUSED))})


class Deaf(Own):
    "Ignores its seed: every episode of the process is another one"

    made = 0

    def reset(self, seed=None):
        Deaf.made += 1
        return super().reset()

    def reward(self):
        return float(Deaf.made)


class Silent(gym.Env):
    "Cannot be told how to draw"

    action_space, observation_space = gym.spaces.Discrete(3), gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def __init__(self):
        pass

    def reset(self, seed=None, options=None):
        return COLOUR, {}

    def step(self, action):
        return COLOUR, 1.0, False, False, {}


gym.register('Silent-v0', Silent)
gym.register('NoModule-v0', 'there_is_no_such_module:Env')
