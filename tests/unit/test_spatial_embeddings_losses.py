"""Lovász softmax against its definition, classes of their own seed map, and clustering on maps without structure."""

from __future__ import annotations

import torch

from engines.spatial_embeddings.clustering import PixelEmbedding, cluster, coordinate_map
from engines.spatial_embeddings.config import ClusterConfig
from engines.spatial_embeddings.losses import lovasz_softmax, spatial_embedding_loss


def jaccard_loss(truth: torch.Tensor, wrong: torch.Tensor) -> float:
    """1 - |truth and not wrong| / |truth or wrong|, the set function that the Lovász extension interpolates."""
    union = (truth | wrong).sum().item()
    return 1.0 - (truth & ~wrong).sum().item() / union if union else 0.0


def lovasz_by_definition(errors: torch.Tensor, truth: torch.Tensor) -> float:
    """Sum over falling errors of error x what its pixel adds to the Jaccard loss, one pixel at a time."""
    total, wrong = 0.0, torch.zeros_like(truth)
    before = 0.0
    for pixel in torch.argsort(errors, descending=True).tolist():
        wrong[pixel] = True
        now = jaccard_loss(truth, wrong)
        total += errors[pixel].item() * (now - before)
        before = now
    return total


def test_lovasz_softmax_is_the_mean_over_present_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    probability = torch.softmax(torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64), 1)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)  # class 3 is absent
    labels[0, 0, :3] = 255
    flat = probability.movedim(1, 0).reshape(4, -1)
    kept = labels.flatten() != 255
    expected = []
    for number in range(3):
        truth = (labels.flatten() == number)[kept]
        expected.append(lovasz_by_definition((truth.double() - flat[number][kept]).abs(), truth))
    value = lovasz_softmax(probability, labels, ignore=255)
    torch.testing.assert_close(value.item(), sum(expected) / 3, atol=1e-12, rtol=0)
    both = [lovasz_softmax(probability[i : i + 1], labels[i : i + 1], ignore=255) for i in range(2)]
    torch.testing.assert_close(lovasz_softmax(probability, labels, per_image=True, ignore=255), sum(both) / 2)


def test_lovasz_softmax_without_a_labelled_pixel_is_zero() -> None:
    probability = torch.full((1, 2, 3, 3), 0.5, requires_grad=True)
    value = lovasz_softmax(probability, torch.full((1, 3, 3), 255), ignore=255)
    value.backward()
    assert value.item() == 0.0


def test_an_image_without_objects_only_pays_for_its_seeds() -> None:
    maps = torch.zeros(1, 4, 8, 8, requires_grad=True)
    nothing = torch.zeros(1, 8, 8, dtype=torch.long)
    terms = spatial_embedding_loss(maps, nothing, nothing)
    assert terms.instance.item() == terms.variance.item() == 0.0
    assert terms.total.item() == terms.seed.item() == 0.25  # sigmoid(0) squared
    assert terms.iou == 0.0


def test_each_class_feeds_its_own_seed_map() -> None:
    instances = torch.zeros(1, 8, 8, dtype=torch.long)
    instances[0, :4] = 1
    instances[0, 4:] = 2
    labels = instances.clone()  # object 1 is of class 1, object 2 of class 2
    maps = torch.zeros(1, 5, 8, 8)
    maps[:, 3, :4], maps[:, 3, 4:] = 20.0, -20.0
    maps[:, 4, :4], maps[:, 4, 4:] = -20.0, 20.0
    right = spatial_embedding_loss(maps, instances, labels).seed
    wrong = spatial_embedding_loss(maps[:, [0, 1, 2, 4, 3]], instances, labels).seed
    assert right < 1e-4 and wrong > 5.0


def two_squares(sigma: float) -> PixelEmbedding:
    """Two 20 px squares whose pixels all point at their own centre."""
    position = coordinate_map(64, 64)
    seed = torch.zeros(1, 64, 64)
    for top, left in ((4, 4), (36, 36)):
        window = (slice(top, top + 20), slice(left, left + 20))
        position[:, window[0], window[1]] = position[:, top + 10, left + 10][:, None, None]
        seed[0, window[0], window[1]] = 0.9
        seed[0, top + 10, left + 10] = 0.99
    return PixelEmbedding(position, torch.full((1, 64, 64), sigma), seed)


def test_both_centres_find_both_squares() -> None:
    for centre in ("seed", "mean"):
        found = cluster(two_squares(sigma=1.0), ClusterConfig(centre=centre))
        assert [int(each.mask.sum()) for each in found] == [400, 400]


def test_noise_ends_after_the_allowed_rounds() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = PixelEmbedding(
        coordinate_map(128, 128),
        torch.full((1, 128, 128), 3.0),  # margins far below a pixel: every seed gathers only itself
        torch.rand(1, 128, 128, generator=generator) * 0.05 + 0.95,
    )
    assert cluster(noise, ClusterConfig(max_rounds=20)) == []
