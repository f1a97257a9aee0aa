"""A season counts as a beginning when it ends before those learnt from."""

from __future__ import annotations

from dataclasses import replace

import torch

from cropgen.models.base import TrainingData
from cropgen.models.layers.reach import Reach, last_slot
from cropgen.series.batches import Batch

SLOTS = 8


def seasons(*ends: int) -> Batch:
    """Rows observed in every slot up to their end; nothing at all for −1."""
    slot = torch.arange(SLOTS).expand(len(ends), -1).contiguous()
    mask = slot <= torch.tensor(ends)[:, None]
    return Batch(mask[..., None].float(), mask, slot * 10.0, slot, torch.zeros(len(ends), dtype=torch.int64))


def test_the_last_slot_is_that_of_the_last_clear_date_within_the_calendar() -> None:
    batch = seasons(7, 2, -1)
    assert last_slot(batch).tolist() == [7, 2, -1]
    outside = replace(batch, slot=torch.where(batch.slot == 7, -1, batch.slot))
    assert last_slot(outside).tolist() == [6, 2, -1]


def test_a_season_without_its_last_quarter_is_a_beginning() -> None:
    reach = Reach()
    assert not reach.ended_early(seasons(7, 0)).any()
    reach.learn(TrainingData(seasons(*[7] * 150), seasons(*[7] * 50, -1)))
    assert reach.ended_early(seasons(7, 6, 5, 4, -1)).tolist() == [False, False, False, True, True]


def test_what_seasons_are_learnt_from_decides_where_they_end() -> None:
    reach = Reach()
    reach.learn(TrainingData(seasons(*[7] * 150), seasons(*[3] * 50)))
    assert reach.ended_early(seasons(7, 3, 2, 1)).tolist() == [False, False, False, True]


def test_one_in_a_hundred_does_not_count() -> None:
    reach = Reach()
    reach.learn(TrainingData(seasons(0, *[7] * 199)))
    assert reach.ended_early(seasons(5, 4)).tolist() == [False, True]


def test_it_is_kept_with_the_weights() -> None:
    reach, again = Reach(), Reach()
    reach.learn(TrainingData(seasons(3, 3)))
    again.load_state_dict(reach.state_dict())
    assert again.ended_early(seasons(1, 2)).tolist() == [True, False]
