"""What a gripper is shown as in an image of labels is read back from it."""

from __future__ import annotations

import pytest
import torch

from geo4d_bench.model.video.labels import label_image, read_changes, read_labels


@pytest.mark.parametrize("arms", [1, 2])
def test_labels_come_back_from_their_image_and_a_gripper_is_shown_from_odds_of_one_to_three(arms: int) -> None:
    rng = torch.Generator().manual_seed(1)
    parts = torch.randint(1 + 3 * arms, (2, 5, 7), generator=rng)
    valid = torch.rand(2, 5, 7, generator=rng) < 0.5
    image = label_image(parts, valid, 2 * torch.rand(2, arms, generator=rng) - 1, fingers=True)
    assert image.shape == (2, 3, 5, 7)
    assert image.abs().max() == 1
    for found, true in zip(read_labels(image, arms, fingers=True), (parts, valid), strict=True):
        assert torch.equal(found.long(), true.long())
    hands = torch.where(parts > 0, parts - (parts - 1) % 3, 0)
    image = label_image(parts, valid, 2 * torch.rand(2, arms, generator=rng) - 1, fingers=False)
    assert image[:, 2].abs().max() <= 0.5
    assert torch.equal(read_labels(image, arms, fingers=False)[0].long(), hands)
    for odds, shown in ((0.24, 0), (0.26, 1)):
        image = torch.tensor([1.0, odds, 0.0]).view(3, 1, 1)
        assert read_labels(image, arms, fingers=True)[0].item() == shown


@pytest.mark.parametrize("arms", [1, 2])
def test_changes_of_openings_are_read_from_grippers_and_not_from_fingers(arms: int) -> None:
    """(B, V, T)."""
    rng = torch.Generator().manual_seed(1)
    change = 2 * torch.rand(2, arms, 3, generator=rng) - 1
    parts = torch.randint(1 + 3 * arms, (2, 2, 3, 5, 7), generator=rng)
    parts[0, :, 1] = 0
    image = label_image(parts, parts > 0, change.mT[:, None], fingers=True)
    expected = change.clone()
    expected[0, :, 1] = torch.nan
    torch.testing.assert_close(read_changes(image, arms), expected, equal_nan=True)


def test_an_unsure_pixel_says_less_of_an_opening_than_a_sure_one() -> None:
    image = torch.zeros(1, 2, 1, 3, 1, 2)
    image[..., 1:, 0, 0] = torch.tensor([1.0, 0.4])
    image[..., 1:, 0, 1] = torch.tensor([0.5, -0.4])
    assert read_changes(image, 1).item() == pytest.approx((0.4 - 0.25 * 0.4) / (0.5 * 1.25))
    image[..., 1, 0, 0] = 0.2
    image[..., 1, 0, 1] = 0.2
    assert read_changes(image, 1).isnan().all()  # no pixel shows a gripper
