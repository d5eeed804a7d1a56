"""The noise floor is what Gaussian neurons reach by chance; the jackknife error is that of exact distances."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import wasserstein_distance
from strategies import BACKENDS, FAMILIES

from wncore.accumulator import Accumulator
from wncore.errors import InputError
from wncore.fast import NumbaBackend
from wncore.histograms import Histogram, choose_edges
from wncore.moments import moments_of
from wncore.uncertainty import LEVELS, jackknife_error, noise_floor, token_groups
from wncore.wasserstein import gaussian_distance

backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def sequences(low, high):
    """Draw the number of each token's sequence, rising: (n,)."""
    lengths = st.lists(st.integers(1, 9), min_size=low, max_size=high)
    return lengths.map(lambda each: np.repeat(3 * np.arange(len(each)) + 5, each))


def histograms(backend, y, groups, bins):
    edges = choose_edges(y, bins)
    return [Histogram(edges, *backend.histogram(y[groups == g], edges)) for g in range(groups.max() + 1)]


def total(parts):
    return sum(parts[1:], parts[0])


def arrays(part):
    return part.edges, part.counts, part.sums, part.powers


# ---- the noise floor


def two_samples(y):
    """SciPy's distance of each standardised neuron to a sample of its own."""
    gauss = np.random.default_rng(1).standard_normal(y.shape)
    return np.array([wasserstein_distance(a, b) for a, b in zip(stats.zscore(y).T, gauss.T, strict=True)])


@pytest.mark.parametrize("tokens", [256, 1024])
@pytest.mark.parametrize(
    ("estimator", "distance", "draws"),
    [("exact", NumbaBackend().gaussian_distance, 20_000), ("sampled", two_samples, 20_000)],
)
def test_gaussian_neurons_stay_under_the_floor_as_often_as_tabulated(tokens, estimator, distance, draws):
    distances = distance(np.random.default_rng(0).standard_normal((tokens, draws)))
    for level in LEVELS:
        sampling = 3 * np.sqrt(level * (1 - level) / draws)
        low, high = np.quantile(distances, [level - sampling, min(level + sampling, 1)])
        floor = noise_floor(tokens, level, estimator)
        assert low / 1.03 <= floor <= high * 1.03  # the table holds for a range of n


def test_the_floor_falls_with_the_root_of_the_tokens():
    assert noise_floor(400, 0.99) == noise_floor(100, 0.99) / 2


def test_only_tabulated_levels_have_a_floor():
    with pytest.raises(InputError, match=r"level 0\.9; choose one of 0\.5, 0\.95, 0\.99, 0\.999"):
        noise_floor(100, level=0.9)


# ---- groups of tokens


@given(sequence=sequences(1, 60), groups=st.integers(1, 30))
def test_groups_are_contiguous_and_all_used(sequence, groups):
    group = token_groups(sequence, groups)
    steps = np.diff(group)
    assert group[0] == 0
    assert ((steps == 0) | (steps == 1)).all()
    assert group[-1] == min(groups, len(sequence)) - 1


@given(data=st.data(), groups=st.integers(1, 30))
def test_sequences_stay_whole_and_spread_evenly(data, groups):
    sequence = data.draw(sequences(groups, 60), label="sequence")
    group = token_groups(sequence, groups)
    pairs = np.unique(np.stack([sequence, group]), axis=1)
    assert len(pairs[0]) == len(np.unique(sequence))
    assert np.ptp(np.bincount(pairs[1])) <= 1


@given(data=st.data(), groups=st.integers(2, 30))
def test_with_too_few_sequences_tokens_spread_evenly(data, groups):
    sequence = data.draw(sequences(1, groups - 1), label="sequence")
    assert np.ptp(np.bincount(token_groups(sequence, groups))) <= 1


# ---- the jackknife


@backends
def test_the_error_equals_that_of_twenty_exact_distances(backend):
    rng = np.random.default_rng(1)
    y = np.stack([make(rng, 8192) for make in FAMILIES.values()], axis=1)
    groups = token_groups(np.repeat(np.arange(64), 128))
    without = np.stack([gaussian_distance(y[groups != g]) for g in range(20)])
    exact = np.sqrt(19 / 20 * np.square(without - without.mean(axis=0)).sum(axis=0))
    parts = histograms(backend, y, groups, bins=4096)
    error = jackknife_error(total(parts), parts, lambda part: backend.distance_bounds(*arrays(part)))
    np.testing.assert_allclose(error, exact, rtol=0.1)


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(2, 25), size=st.integers(2, 20))
def test_the_jackknife_of_a_mean_is_its_textbook_error(seed, groups, size):
    y = np.random.default_rng(seed).standard_normal((groups * size, 3))

    parts = histograms(BACKENDS[0], y, np.repeat(np.arange(groups), size), bins=8)

    def means(part):
        return 2 * (moments_of(part.edges, part.counts.sum(axis=1), part.powers).mean,)

    error = jackknife_error(total(parts), parts, means)
    expected = y.reshape(groups, size, 3).mean(axis=1).std(axis=0, ddof=1) / np.sqrt(groups)
    np.testing.assert_allclose(error, expected, rtol=1e-10)


@backends
@pytest.mark.parametrize("bins", [128, 512])
def test_pieces_counted_at_once_are_those_counted_one_by_one(backend, bins):
    """Some without a first token, and one with a single token."""
    rng = np.random.default_rng(4)
    y = backend.asarray(rng.standard_normal((500, 4)) * [1, 10, 1e-3, 0] + 3, "float64")
    starts = [0, 130, 131, 300, 420, 500]
    first = np.zeros(500, bool)
    first[[0, 7, 130, 301, 499]] = True
    edges = backend.choose_edges(y, bins)
    once, steps = Accumulator(backend, edges), Accumulator(backend, edges)
    once.add_pieces(y, first, starts)
    for begin, end in pairwise(starts):
        middle = (begin + end) // 2
        for part in (slice(begin, middle), slice(middle, end)):
            if part.start < part.stop:
                steps.add(y[part], first[part])
        steps.end_piece()
    for found, expected in zip(once.bounds(), steps.bounds(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    expected = steps.statistics()
    for name, found in once.statistics().items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-9, err_msg=name)
    assert expected["wasserstein_error"][0] > 0


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_groups_tell_no_error(count):
    y = np.random.default_rng(3).standard_normal((50, 3))
    (whole,) = histograms(BACKENDS[0], y, np.zeros(50, int), bins=8)
    assert np.isnan(jackknife_error(whole, [whole] * count)).all()
