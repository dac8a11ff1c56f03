"""Both families against closed form and against diffusers' own samplers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from geo4d_bench.model.video.diffusion import EDM, Diffusion, RectifiedFlow, sample

FAMILIES = {"edm": EDM, "rectified_flow": RectifiedFlow}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stand_in(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    """Some output that depends on all that a network is given."""
    return torch.tanh(x + told.view(*told.shape, *[1] * (x.ndim - told.ndim))) + 0.1 * x


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_edm_samples_as_diffusers_does_step_by_step(steps: int) -> None:
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
        sigma_max=700, timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    edm, noise = EDM(), normal(3, 2, 50)
    for levels in edm.sampling_levels(steps):
        torch.testing.assert_close(levels, scheduler.sigmas, rtol=1e-6, atol=0)
    theirs = [noise * scheduler.init_noise_sigma]
    for t in scheduler.timesteps:
        output = stand_in(scheduler.scale_model_input(theirs[-1], t), t.expand(3, 2))
        theirs.append(scheduler.step(output, t, theirs[-1]).prev_sample)
    seen = []

    def denoise(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return edm.denoised(stand_in(*edm.network_input(x, level)), x, level)

    seen.append(sample(edm, denoise, noise, steps))
    assert len(seen) == len(theirs) == steps + 1
    for mine, their in zip(seen, theirs, strict=True):
        # A few roundings a step, of numbers as large as the noise at first.
        torch.testing.assert_close(mine, their, rtol=steps * 1e-6, atol=steps * 1e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_rectified_flow_samples_each_view_as_diffusers_does_and_further_views_a_step_later(steps: int) -> None:
    flow, noise = RectifiedFlow(), normal(3, 3, 50)
    mine = sample(flow, lambda x, level: stand_in(*flow.network_input(x, level)), noise, steps)
    falling = torch.linspace(1, flow.last_level, steps).tolist()
    for view, own in enumerate([falling, *[falling[: max(steps - 1, 1)]] * 2]):
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=own)
        x = noise[:, view]
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            seen = flow.network_input(x[:, None], sigma.expand(3, 1))[0][:, 0]
            velocity = (x - stand_in(seen, t.expand(3))) / sigma  # diffusers' models predict noise - z
            x = scheduler.step(velocity, t, x).prev_sample
        torch.testing.assert_close(mine[:, view], x, rtol=1e-5, atol=1e-5)
    of_n, of_m = flow.sampling_levels(steps)
    assert (of_m >= of_n).all()
    assert of_n[-1] == of_m[-1] == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 7])
def test_a_perfect_denoiser_brings_back_the_clean_sample(family: str, steps: int) -> None:
    clean = normal(2, 4, 5)
    found = sample(FAMILIES[family](), lambda x, level: clean, normal(2, 4, 5, seed=1), steps)
    # The last step lands on the denoised sample, but for the rounding of what is left of the noise.
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-4)


def true_output(diffusion: Diffusion, z: torch.Tensor, noise: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    if isinstance(diffusion, RectifiedFlow):
        return z
    s = level.view(-1, 1)
    return (noise - s * z) / (s**2 + 1).sqrt()  # v = cos(a) noise - sin(a) z with tan(a) = s


@pytest.mark.parametrize("family", FAMILIES)
def test_the_true_output_denoises_exactly_and_inputs_are_scaled(family: str) -> None:
    diffusion = FAMILIES[family]()
    level = torch.tensor([0.01, 0.3, 1.0]) if family == "rectified_flow" else torch.tensor([0.01, 1.0, 300.0])
    z, noise = normal(3, 20000), normal(3, 20000, seed=1)
    z = z if isinstance(diffusion, EDM) else diffusion.data_std * z
    x = diffusion.add_noise(z, noise, level)
    found = diffusion.denoised(true_output(diffusion, z, noise, level), x, level)
    # x is of size s: what float32 cannot hold of z in it stays lost.
    torch.testing.assert_close(found, z, rtol=0, atol=1e-5 * max(1.0, float(level.max())))
    scaled, _ = diffusion.network_input(x, level)
    if family == "edm":
        torch.testing.assert_close(scaled.std(1), torch.ones(3), rtol=0.03, atol=0)
    else:  # the best linear estimate of z, which pure noise says nothing of
        torch.testing.assert_close((z * scaled).mean(1), scaled.square().mean(1), rtol=0.03, atol=1e-3)
        assert (scaled[2] == 0).all()


def test_the_edm_weight_makes_the_error_that_of_v() -> None:
    edm, level = EDM(), torch.tensor([0.1, 1.0, 20.0])
    z, noise, off = normal(3, 50), normal(3, 50, seed=1), normal(3, 50, seed=2)
    x = edm.add_noise(z, noise, level)
    wrong = edm.denoised(true_output(edm, z, noise, level) + off, x, level)
    weighted = edm.loss_weight(level)[:, None] * (wrong - z) ** 2
    torch.testing.assert_close(weighted, off**2, rtol=1e-2, atol=1e-3)


def test_edm_levels_are_log_normal_and_told_as_a_quarter_of_the_logarithm() -> None:
    levels, of_m = EDM().draw_levels(40000, torch.Generator().manual_seed(0)).T
    assert torch.equal(levels, of_m)
    assert float(levels.log().mean()) == pytest.approx(1.0, abs=4 * 1.6 / math.sqrt(40000))
    assert float(levels.log().std()) == pytest.approx(1.6, abs=4 * 1.6 / math.sqrt(2 * 40000))
    _, told = EDM().network_input(torch.zeros(2, 1), torch.tensor([1.0, math.e**2]))
    torch.testing.assert_close(told, torch.tensor([0.0, 0.5]))


def test_rectified_flow_trains_where_sampling_goes() -> None:
    of_n, of_m = RectifiedFlow().draw_levels(10000, torch.Generator().manual_seed(0)).T
    share = RectifiedFlow().pure_noise_share
    for levels in (of_n, of_m):  # one step starts at pure noise
        assert float((levels == 1).float().mean()) == pytest.approx(
            share, abs=4 * math.sqrt(share * (1 - share) / 10000)
        )
        assert ((levels > 0) & (levels <= 1)).all()
    assert (of_m >= of_n).all()  # view n is ahead
