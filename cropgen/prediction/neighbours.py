"""Neighbouring parcels bear alike crops more often than chance has it: class probabilities smoothed over neighbours.

A pairwise Markov random field whose evidence is what the classifier says about each parcel i,

    p(y | x) ∝ Π_i p(y_i | x_i)  Π_(i~j) exp(λ c(y_i, y_j)),

with neighbours i ~ j and the compatibility c of two crops: 1 where they are the same and 0 elsewhere (Potts), or learnt
from pairs of labelled neighbours as the logarithm of how much more often the two meet than by chance,

    c(a, b) = log P(a, b) / (π_a π_b);   with λ = 1 two parcels are then weighed exactly by Bayes' rule.

The marginals are those of sum-product belief propagation in log space, all messages at once for a number of rounds,

    m_ij(b) = log Σ_a exp(s_i(a) − m_ji(a) + λ c(a, b)),      s_i = log p(y_i | x_i) + Σ_k m_ki,

exact where the neighbours form a tree no longer than the rounds. What is more than one neighbour per round away cannot
matter, so tiles with a margin of that width give what the whole region would, in the memory of a tile.

References:
    Probabilistic Reasoning in Intelligent Systems, Pearl, 1988;
    Loopy Belief Propagation for Approximate Inference: An Empirical Study, Murphy, Weiss and Jordan, 1999.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_EARTH_RADIUS_M = 6_371_008.8
_MOST_PER_TILE = 20_000
_PSEUDO_PAIRS = 20.0


@dataclass(frozen=True)
class Field:
    """A Markov random field over parcels, but for the parcels.

    Arguments:
        name: of the compatibility and its strength.
        potential: (K, K) symmetric λ c, in nats.
        reach_m: parcels further apart, from one middle to the other, are no neighbours.
        most: neighbours a parcel chooses, the nearest ones; it may be chosen by others.
        rounds: of messages.
    """

    name: str
    potential: np.ndarray
    reach_m: float = 200.0
    most: int = 8
    rounds: int = 8

    @property
    def margin_m(self) -> float:
        """How far from a parcel anything may matter to it: a step per round, and the choices of the last one met."""
        return (self.rounds + 1) * self.reach_m


@dataclass(frozen=True)
class Marginal:
    """What the field says about N parcels: (N, K) log-probabilities and (N,) numbers of neighbours."""

    log_probability: np.ndarray
    neighbours: np.ndarray


def on_the_globe(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(N, 3) places in metres of longitudes and latitudes in degrees, on a sphere; distances are chords."""
    east, north = np.deg2rad(np.asarray(lon, float)), np.deg2rad(np.asarray(lat, float))
    unit = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], 1)
    return _EARTH_RADIUS_M * unit


def neighbour_pairs(place: np.ndarray, reach_m: float, most: int) -> np.ndarray:
    """(E, 2) ascending pairs of rows i < j of which at least one is among the `most` nearest of the other.

    Of parcels equally far away, the one of the lower row is nearer.

    Arguments:
        place: (N, D) metres; rows that are not finite have no neighbours.
        reach_m: largest distance.
    """
    from scipy.spatial import KDTree

    known = np.flatnonzero(np.isfinite(place).all(1))
    if len(known) < 2:
        return np.zeros((0, 2), np.int64)
    pairs = known[KDTree(place[known]).query_pairs(reach_m, output_type="ndarray")].astype(np.int64).reshape(-1, 2)
    distance = np.linalg.norm(place[pairs[:, 0]] - place[pairs[:, 1]], axis=1)
    number = np.tile(np.arange(len(pairs)), 2)
    one, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((other, distance[number], one))
    first = np.searchsorted(one[order], one[order])
    chosen = np.unique(number[order[np.arange(len(order)) - first < most]])
    kept = np.sort(pairs[chosen], axis=1)
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def marginals(log_posterior: np.ndarray, pairs: np.ndarray, potential: np.ndarray, rounds: int) -> Marginal:
    """Marginals of the field by belief propagation.

    Arguments:
        log_posterior: (N, K) what the classifier says, in nats.
        pairs: (E, 2) neighbours.
        potential: (K, K) symmetric λ c.
        rounds: of messages.
    """
    from scipy.sparse import csr_matrix

    rows, classes = log_posterior.shape
    source, target = np.concatenate([pairs, pairs[:, ::-1]]).T
    back = np.roll(np.arange(len(source)), len(pairs))
    order = np.lexsort((source, target))
    begins = np.searchsorted(target[order], np.arange(rows + 1))
    gather = csr_matrix((np.ones(len(order)), order, begins), (rows, len(order)))
    top = potential.max(initial=0.0)
    meet = np.exp(potential - top)
    message = np.zeros((len(source), classes))
    for _ in range(rounds):
        said = (log_posterior + gather @ message)[source] - message[back]
        best = said.max(1, keepdims=True)
        message = np.log(np.exp(said - best) @ meet) + best
        message -= message.max(1, keepdims=True)
    total = log_posterior + gather @ message
    total -= total.max(1, keepdims=True)
    total -= np.log(np.exp(total).sum(1, keepdims=True))
    return Marginal(total, np.diff(begins))


def smooth(place: np.ndarray, log_posterior: np.ndarray, field: Field) -> Marginal:
    """Marginals of N parcels at their places, at once."""
    pairs = neighbour_pairs(place, field.reach_m, field.most)
    return marginals(np.asarray(log_posterior, float), pairs, field.potential, field.rounds)


def smooth_by_tiles(
    place: np.ndarray, log_posterior: np.ndarray, field: Field, *, most: int = _MOST_PER_TILE
) -> Iterator[tuple[np.ndarray, Marginal]]:
    """The same tile by tile: rows of the parcels and their marginals, every row once.

    Arguments:
        place: (N, D) metres.
        log_posterior: (N, K), also of a file mapped to memory: only the rows of a tile and its margin are read.
        most: parcels in a tile without its margin.
    """
    known = np.isfinite(place).all(1)
    lonely = np.flatnonzero(~known)
    if len(lonely):
        yield lonely, smooth(place[lonely], log_posterior[lonely], field)
    along = np.flatnonzero(known)
    along = along[np.argsort(place[along, 0], kind="stable")]
    for core in _tiles(place, np.flatnonzero(known), most):
        low, high = place[core].min(0) - field.margin_m, place[core].max(0) + field.margin_m
        begin, end = np.searchsorted(place[along, 0], [low[0], high[0]], side="left")
        strip = along[begin:end]
        around = np.sort(strip[((place[strip] >= low) & (place[strip] <= high)).all(1)])
        found = smooth(place[around], log_posterior[around], field)
        inside = np.searchsorted(around, core)
        yield core, Marginal(found.log_probability[inside], found.neighbours[inside])


def _tiles(place: np.ndarray, rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Ascending rows of tiles: halves along the longest side until no tile holds more than `most`."""
    if len(rows) <= most:
        if len(rows):
            yield rows
        return
    axis = int(np.ptp(place[rows], axis=0).argmax())
    order = rows[np.argsort(place[rows, axis], kind="stable")]
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        yield from _tiles(place, np.sort(half), most)


def potts(classes: int) -> np.ndarray:
    """(K, K) compatibility of equal crops."""
    return np.eye(classes)


def learnt_compatibility(label: np.ndarray, pairs: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) log P(a, b) / (π_a π_b) from labelled neighbours; a few pairs that met by chance are thought added.

    Arguments:
        label: (N,) classes 0 … K − 1, negative where unknown.
        pairs: (E, 2) neighbours.
    """
    share = np.bincount(label[label >= 0], minlength=classes) + 0.5
    chance = np.outer(share, share) / share.sum() ** 2
    one, other = label[pairs].T
    both = (one >= 0) & (other >= 0)
    met = np.zeros((classes, classes))
    np.add.at(met, (one[both], other[both]), 0.5)
    met = met + met.T
    return np.log((met + _PSEUDO_PAIRS * chance) / ((met.sum() + _PSEUDO_PAIRS) * chance))
