"""The Fréchet distance against its closed form, and what its features notice."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import ortho_group

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.evaluation.derivatives import derivative_energies
from geo4d_bench.evaluation.frechet import extractors, frechet_distance, frechet_interval, pair_distance

Videos = np.ndarray


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def samples(mean: np.ndarray, root: np.ndarray, n: int) -> np.ndarray:
    """(n, D) samples with exactly that mean and the covariance root rootᵀ."""
    x = rng().normal(size=(n, len(mean)))
    q, _ = np.linalg.qr(x - x.mean(0))
    return mean + np.sqrt(n - 1) * q @ root.T


def test_commuting_covariances() -> None:
    """Σ (√a - √b)² + |Δmean|² where the covariances share their axes."""
    axes = ortho_group.rvs(5, random_state=1)
    a, b = np.array([1e-6, 0.1, 1.0, 4.0, 900.0]), np.array([2.0, 0.1, 1e-4, 9.0, 400.0])
    shift = np.arange(5.0)
    found = frechet_distance(samples(np.zeros(5), axes * np.sqrt(a), 40), samples(shift, axes * np.sqrt(b), 60))
    assert found == pytest.approx(np.sum((np.sqrt(a) - np.sqrt(b)) ** 2) + shift @ shift, rel=1e-9)


def test_covariances_with_different_axes() -> None:
    """In two dimensions tr (S_a S_b)^(1/2) = (tr S_a S_b + 2 (det S_a S_b)^(1/2))^(1/2)."""
    root_a, root_b = rng().normal(size=(2, 2, 2))
    s_a, s_b = root_a @ root_a.T, root_b @ root_b.T
    both = s_a @ s_b
    expected = np.trace(s_a + s_b) - 2 * np.sqrt(np.trace(both) + 2 * np.sqrt(np.linalg.det(both)))
    zero = np.zeros(2)
    assert frechet_distance(samples(zero, root_a, 9), samples(zero, root_b, 30)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [5, 400])
def test_a_set_against_itself_and_moved(n: int) -> None:
    """Also with fewer videos than features, where the covariance has no root by inversion."""
    a = rng().normal(size=(n, 50))
    scale = float(a.var(0).sum())
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-12 * scale)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0.0, abs=1e-12 * scale)
    assert frechet_distance(a, a + 2.0) == pytest.approx(50 * 4.0)
    assert pair_distance(a, a + 2.0) == pytest.approx(50 * 4.0)
    assert pair_distance(a, a[::-1]) > 1.0  # the same set in another order: a distance of pairs is no distance of sets


def test_the_bias_of_small_sets() -> None:
    """Two sets of one distribution are apart, the more so the fewer they are: why n stands in every row."""
    halves = [
        frechet_distance(rng().normal(size=(n, 20)), -rng().normal(size=(2 * n, 20))[n:]) for n in (40, 400, 4000)
    ]
    assert halves[0] > 5 * halves[1] > 25 * halves[2] > 0


def test_wrong_sets_are_one_sentence() -> None:
    for a, b in ((np.zeros((1, 3)), np.zeros((4, 3))), (np.zeros((4, 3)), np.zeros((4, 2)))):
        with pytest.raises(ConfigError, match="Fréchet"):
            frechet_distance(a, b)


def test_interval_of_a_shift_has_no_width() -> None:
    """Whatever the episodes drawn, the shifted set is the other one moved by the same way."""
    real = rng().normal(size=(60, 3))
    mean = frechet_interval(real, real + 1.0, np.arange(60) // 10, rng())
    assert mean == pytest.approx((3, 3, 3))


def test_interval_has_the_spread_of_fresh_episodes() -> None:
    """The half-width against 1.96 standard deviations of the distance over sets that were really drawn anew."""
    draw = rng()

    def pair() -> tuple[np.ndarray, np.ndarray]:
        real = draw.normal(size=(200, 2))
        return real, 1.0 + real + draw.normal(size=(200, 2))

    fresh = np.std([frechet_distance(*pair()) for _ in range(300)], ddof=1)
    widths = [frechet_interval(*pair(), range(200), draw, resamples=200) for _ in range(10)]
    assert np.mean([(w.high - w.low) / 2 for w in widths]) == pytest.approx(1.96 * fresh, rel=0.15)


def test_interval_is_left_out_where_it_says_nothing() -> None:
    a = rng().normal(size=(20, 30))
    fewer_than_features = frechet_interval(a, a + 1.0, range(20), rng())
    assert fewer_than_features.value == pytest.approx(30.0)
    assert np.isnan(fewer_than_features.low)
    assert np.isnan(frechet_interval(a[:, :3], a[:, :3] + 1.0, np.arange(20) % 2, rng()).high)
    assert np.isnan(frechet_interval(a[:1], a[:1], [0], rng()).value)


@pytest.fixture(scope="module")
def videos() -> Videos:
    """(200, 8, 32, 40, 3) uint8: two textured discs a video, moving in front of a textured wall."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40]
    made = []
    for _ in range(200):
        wall, coat = gaussian_filter(draw.uniform(0, 255, (2, 32, 40, 3)), (0, 1, 1, 0))
        start, speed = draw.uniform(8, 24, (2, 2)), draw.uniform(-1.5, 1.5, (2, 2))
        frames = []
        for t in range(8):
            frame = 0.5 * wall + 60
            for p, v in zip(start, speed, strict=True):
                disc = (x - p[0] - t * v[0]) ** 2 + (y - p[1] - t * v[1]) ** 2 < 36
                frame[disc] = coat[disc] + 40
            frames.append(frame)
        made.append(np.clip(np.rint(frames), 0, 255).astype(np.uint8))
    return np.stack(made)


def blur(v: Videos, much: float) -> Videos:
    return gaussian_filter(v, (0, 0, much, much, 0))


def noise(v: Videos, much: float) -> Videos:
    return np.clip(np.rint(v + rng().normal(0, much, v.shape)), 0, 255).astype(np.uint8)


def swap(v: Videos, pairs: float) -> Videos:
    """Frames 0 and 1, 2 and 3 and so on exchange their places, as many pairs as given."""
    order = np.arange(8)
    order[: 2 * int(pairs)] ^= 1
    return v[:, order]


def freeze(v: Videos, frames: float) -> Videos:
    """The last ``frames`` frames repeat the one before them."""
    return v[:, np.minimum(np.arange(8), 7 - int(frames))]


def dim(v: Videos, share: float) -> Videos:
    return np.rint(v * (1.0 - share)).astype(np.uint8)


@pytest.mark.parametrize(
    ("corrupt", "levels"),
    [(blur, (0.4, 0.8, 1.6)), (noise, (3, 9, 27)), (swap, (1, 2, 4)), (freeze, (2, 4, 7)), (dim, (0.1, 0.3, 0.6))],
)
def test_distance_grows_with_what_is_wrong(
    videos: Videos, corrupt: Callable[[Videos, float], Videos], levels: tuple[float, ...]
) -> None:
    """Measured on other videos than the real set's, so that each number holds the bias of its 100 videos, too."""

    def features(v: Videos) -> np.ndarray:
        return np.stack([derivative_energies(one) for one in v])

    real, clean = features(videos[:100]), features(videos[100:])
    found = [frechet_distance(real, features(corrupt(videos[100:], level))) for level in levels]
    assert frechet_distance(real, clean) < found[0] < found[1] < found[2]


def test_derivative_energies_of_a_ramp() -> None:
    """Brightness 10 + 2 x + 3 y + 5 t: first differences 2, 3 and 5, second ones none."""
    t, y, x = np.mgrid[:6, :16, :20]
    video = np.repeat((10 + 2 * x + 3 * y + 5 * t)[..., None], 3, axis=-1).astype(np.uint8)
    features = derivative_energies(video)
    assert features.shape == (24,)
    np.testing.assert_allclose(features[:6], np.log(np.array([4, 9, 25, 0, 0, 0]) + 1.0), atol=1e-6)
    np.testing.assert_allclose(features[18:21], np.log(video.mean() ** 2 + 1.0), rtol=1e-6)
    np.testing.assert_allclose(features[21:], np.log(video.var() + 1.0), rtol=1e-6)
    with pytest.raises(ConfigError, match="16 x 16"):
        derivative_energies(video[:, :8])


def test_time_running_backwards_changes_the_sign_of_three_features(videos: Videos) -> None:
    """Where motion stops half-way, the later half has less of it."""
    halting = freeze(videos[0][None], 4)[0]
    forwards, backwards = derivative_energies(halting), derivative_energies(halting[::-1])
    trend = [5, 11, 17]
    assert (forwards[trend] < -0.1).all()
    np.testing.assert_allclose(backwards[trend], -forwards[trend], rtol=1e-5)
    np.testing.assert_allclose(np.delete(backwards, trend), np.delete(forwards, trend), rtol=1e-5, atol=1e-6)


def test_fvd_is_the_name_only_of_i3d(tmp_path: Path) -> None:
    assert [e.metric for e in extractors(None)] == ["frechet_derivatives"]
    assert len(extractors(None)[0].sha256) == 64
    with pytest.raises(CheckpointError, match=r"docs/metrics\.md"):
        extractors(tmp_path / "none.safetensors")
    with pytest.raises(dataclasses.FrozenInstanceError):
        extractors(None)[0].metric = "fvd"  # type: ignore[misc]
