"""Where there is one task, without experts and groups, the parts made for many tasks give the numbers of chapter 01."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mow_nb.agent.actor_critic import lambda_return
from mow_nb.agent.player import Agent
from mow_nb.config import AgentConfig, TrainConfig
from mow_nb.core import generator, seeded
from mow_nb.core import test_same as same
from mow_nb.model.vae import unimix_probs
from mow_nb.one_task import OneTask
from mow_nb.one_task import lambda_return as one_lambda_return
from mow_nb.records import Batch, Rollout, State
from mow_nb.store.presets import changed, preset
from mow_nb.tools.bench import one_task_of
from mow_nb.training.learner import Learner

B, T, A = 3, 6, 18


def copy_mlp(mlp, net):
    "Weights of a `Sequential` of Linear, LayerNorm, ReLU, ..., Linear into an `MLP`"
    linear, norm = ([m for m in net if isinstance(m, kind)] for kind in (nn.Linear, nn.LayerNorm))
    for to, of in zip([*mlp.hidden, *mlp.norms, mlp.out], [*linear[:-1], *norm, linear[-1]], strict=True):
        to.load_state_dict(of.state_dict())


def copy_vae(enc, dec, one):
    "Encoder and decoder"
    for mine, conv, net in ((enc, nn.Conv2d, one.enc), (dec, nn.ConvTranspose2d, one.dec)):
        convs, norms = ([m for m in net if isinstance(m, kind)] for kind in (conv, nn.BatchNorm2d))
        for to, of in zip([*mine.convs, *mine.norms], [*convs, *norms], strict=True):
            to.load_state_dict(of.state_dict())
    enc.out.load_state_dict(one.enc[-1].state_dict())
    dec.inp.load_state_dict(one.dec[0].state_dict())


@torch.no_grad()
def copy_dynamics(dyn, one):
    "Mixer and Transformer, into banks of one"
    norm = lambda to, of: (to['scale'].copy_(of.weight[None]), to['shift'].copy_(of.bias[None]))
    matrix = lambda to, *of: to.copy_(torch.cat([m.weight.T for m in of], -1)[None])
    matrix(dyn.mixer.w1, one.mix[0]), norm(dyn.mixer.norm1, one.mix[1])
    matrix(dyn.mixer.w2, one.mix[3]), norm(dyn.mixer.norm2, one.mix[4])
    dyn.shared.pos.copy_(one.pos[None]), norm(dyn.shared.norm, one.norm)
    for to, of in zip(dyn.shared.blocks, one.blocks, strict=True):
        matrix(to.qkv, of.q, of.k, of.v), matrix(to.out, of.out), matrix(to.up, of.up), matrix(to.down, of.down)
        to.up_bias.copy_(of.up.bias[None]), to.down_bias.copy_(of.down.bias[None])
        norm(to.norm1, of.norm1), norm(to.norm2, of.norm2)


@pytest.fixture
def pair():
    "A learner of one task and the one-task version, with the same weights"
    config = changed(preset('toy+storm'), {'tasks': 'Boxing', 'model.pictures': 'plain', 'model.dynamics.layers': 2})
    learner = Learner(config)
    with seeded(0, 'one task'):
        one = one_task_of(config, A)
    gen = generator(0, 'noise')
    for p in one.parameters():  # biases and norms too, so that none of them can be mixed up
        p.data += 0.1 * torch.randn(p.shape, generator=gen)
    world, agent = learner.world, learner.actor_critic
    copy_vae(world.enc.members[0], world.dec.members[0], one)
    copy_dynamics(world.dyn, one)
    world.heads.prior.members[0].trunk.out.load_state_dict(one.prior.state_dict())
    banks = (world.heads.rew, one.rew), (world.heads.cont, one.cont), (agent.critic, one.critic), (agent.slow, one.slow)
    for to, of in banks:
        copy_mlp(to.members[0].trunk, of)
    copy_mlp(agent.actor.trunk, one.actor)
    return learner, one


@pytest.fixture
def play():
    "Pictures, actions, rewards and continue flags of B windows of T steps"
    gen = generator(0, 'play')
    obs = torch.rand(B, T, 3, 32, 32, generator=gen)
    act = F.one_hot(torch.randint(A, (B, T), generator=gen), A).float()
    return obs, act, torch.randn(B, T, generator=gen), (torch.rand(B, T, generator=gen) > 0.2).float()


def vectors(learner):
    return learner.world.task_vectors()


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_encoder_and_decoder(pair, play, mode):
    learner, one = pair
    getattr(one, mode)(), getattr(learner.world, mode)()
    e, obs = vectors(learner), play[0]
    p, z = one.encode(obs, generator(0, 'z'))
    post = unimix_probs(learner.world.enc(obs[None], e), one.groups, learner.config.model.vae.unimix)
    same(post[0], p, tol=1e-5)
    same(learner.world.dec(z[None], e)[0], one.dec(z.flatten(0, 1)).unflatten(0, (B, T)), tol=1e-4)


def test_transformer_at_once_and_step_by_step(pair, play):
    learner, one = pair
    dyn, e, act = learner.world.dyn, vectors(learner), play[1]
    z = one.eval().encode(play[0], generator(0, 'z'))[1].detach()
    h = one.read(z, act, [])
    same(dyn(z[None], act[None], e, dyn.expert_weights(dyn.route(e)))[0][0], h, tol=1e-5)
    weights, caches, past = dyn.expert_weights(dyn.route(e)), dyn.kv_caches((1, B), T), []
    for t in range(T):
        now = z[:, t : t + 1], act[:, t : t + 1]
        theirs = dyn(now[0][None], now[1][None], e, weights, caches)[0][0]
        same(theirs, one.read(*now, past), tol=1e-5)
        same(theirs, h[:, t : t + 1], tol=1e-5)


def test_losses_of_the_world_model_and_their_gradients(pair, play):
    learner, one = pair
    world, e, (obs, act, rew, cont) = learner.world.train(), vectors(learner), play
    mine = one.train().losses(*play, generator(0, 'z'))
    post = unimix_probs(world.enc(obs[None], e), one.groups, world.cfg.vae.unimix)
    draws = one.encode(obs, generator(0, 'z'))[1].detach().round()
    z = draws + (post - post.detach()).flatten(-2)
    h, gates = world.dyn(z, act[None], e, world.dyn.expert_weights(world.dyn.route(e)))
    state = State(seen=obs[None], post=post, z=z, h=h, prior=world.predict(h, e), gates=gates)
    batch = Batch(obs=obs[None], act=act[None], rew=rew[None], cont=cont[None])
    theirs = world.losses(batch, state)
    assert theirs.keys() == mine.keys()
    for name in mine:
        same(theirs[name][0] / mine[name].mean(), mine[name] / mine[name].mean(), tol=1e-4)
    total, one_total = world.objective(theirs, gates), one.model_loss(mine)
    same(total / one_total, torch.tensor(1.0), tol=1e-5)
    total.backward(), one_total.backward()
    pairs = (
        (world.enc.members[0].out.weight.grad, one.enc[-1].weight.grad),
        (world.dec.members[0].inp.weight.grad, one.dec[0].weight.grad),
        (world.heads.prior.members[0].trunk.out.weight.grad, one.prior.weight.grad),
        (world.dyn.mixer.w1.grad[0], one.mix[0].weight.grad.T),
    )
    for theirs, mine in pairs:
        same(theirs / mine.norm(), mine / mine.norm(), tol=1e-4)


@pytest.mark.parametrize('lowest', [0.0, 100.0])
def test_the_floor_of_the_divergences(pair, play, lowest):
    learner, one = pair
    losses = one.losses(*play, generator(0, 'z'))
    losses |= {name: losses[name] + lowest for name in ('dyn', 'rep')}
    theirs = learner.world.task_losses({name: loss[None] for name, loss in losses.items()})
    same(theirs[0] / one.model_loss(losses), torch.tensor(1.0), tol=1e-6)


def dreamt(learner, one, play):
    "Dreams of the learner, from contexts of four steps"
    world, obs, act = learner.world.eval(), play[0], play[1]
    z = one.eval().encode(obs[:, :4], generator(0, 'z'))[1].detach()
    return z, world.imagine(z[None], act[None, :, :4], learner.actor_critic.act, 5, generator(0, 'dream'))


def test_dreams(pair, play):
    learner, one = pair
    z, roll = dreamt(learner, one, play)
    h = one.read(torch.cat([z, roll.z[0, :, :-1]], 1), torch.cat([play[1][:, :4], roll.act[0]], 1), [])
    same(roll.h[0], h[:, 3:], tol=1e-5)
    same(roll.rew[0], one.twohot.decode(one.rew(h[:, 4:])), tol=1e-4)
    same(roll.cont[0], one.cont(h[:, 4:])[..., 0].sigmoid(), tol=1e-5)
    same(learner.world.predict(roll.h, vectors(learner))[0], one.probs(one.prior(h[:, 3:])), tol=1e-5)
    s, act, rew, cont = one.imagine(play[0][:, :4], play[1][:, :4], 5, generator(0, 'dream'))
    assert (s.shape, act.shape) == (torch.cat([roll.z, roll.h], -1)[0].shape, roll.act[0].shape)
    assert (rew.shape, cont.shape) == (roll.rew[0].shape, roll.cont[0].shape)


def test_lambda_return():
    gen = generator(0, 'return')
    rew, cont, value = (torch.rand(4, 7 + more, generator=gen) for more in (0, 0, 1))
    same(lambda_return(rew, cont, value, 0.9, 0.8), one_lambda_return(rew, cont, value, 0.9, 0.8))


@pytest.mark.parametrize('pay', [1.0, 300.0])
def test_losses_of_actor_and_critic(pair, play, pay):
    learner, one = pair
    agent, roll = learner.actor_critic, dreamt(learner, one, play)[1]
    rew = pay * torch.randn(roll.rew.shape, generator=generator(0, 'pay'))
    roll = Rollout(z=roll.z, h=roll.h, act=roll.act, rew=rew, cont=roll.cont)
    agent.scale.fill_(pay / 2), one.scale.fill_(pay / 2)
    theirs = agent.losses(roll, vectors(learner))
    mine = one.behaviour_losses(torch.cat([roll.z, roll.h], -1)[0], roll.act[0], roll.rew[0], roll.cont[0])
    same(agent.scale[0] / one.scale, torch.tensor(1.0), tol=1e-5)
    assert (one.scale > 1) == (pay > 1)
    for name in mine:
        same(theirs[name][0], mine[name], tol=1e-4)


def test_hidden_state_of_the_player(pair, play):
    learner, one = pair
    z = one.eval().encode(play[0], generator(0, 'z'))[1].detach()
    agent = Agent(learner.world, learner.actor_critic, context=T)
    h = agent.hidden_state(vectors(learner), z[:1, None], play[1][:1, None])
    same(h[0], one.read(z[:1], play[1][:1], [])[:, -1:], tol=1e-5)


def test_defaults_are_those_of_the_preset():
    "Two homes for STORM's numbers: here they are held together"
    here, there = OneTask(), one_task_of(preset('storm'), 18)
    shapes = lambda one: {name: tuple(t.shape) for name, t in one.state_dict().items()}
    assert shapes(here) == shapes(there)
    agent, train = AgentConfig(), TrainConfig()
    assert (here.gamma, here.lam, here.entropy) == (agent.gamma, agent.lam, agent.entropy)
    assert (here.model_clip, here.agent_clip) == (train.model_clip, train.agent_clip)
    for opt, lr in ((here.model_opt, train.model_lr), (here.agent_opt, train.agent_lr)):
        assert opt.param_groups[0]['lr'] == lr
