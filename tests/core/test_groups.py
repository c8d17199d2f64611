"""Classes that are groups of prototypes."""

import torch
import torch.nn.functional as F

from il2vseg.learning.clustering import ward_groups
from il2vseg.methods.base import Recipe
from il2vseg.methods.kmeans import KMeans
from il2vseg.methods.steady import Steady
from il2vseg.models.segmenter import Classifier
from il2vseg.models.whitening import Whitening


def test_classes_are_groups_of_prototypes() -> None:
    classifier = Classifier(Whitening(6, 4, False), 2, prototypes=3)
    classifier.whitening.basis.copy_(torch.eye(4, 6))
    prototypes = torch.eye(3, 64)
    classifier.set_prototypes(prototypes, torch.tensor([1, 0, 1]))
    tokens = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    z = F.normalize(tokens[:, :4], dim=1)
    fine = (z[:, :3] / 0.1).softmax(1)
    assert torch.allclose(classifier(tokens)[:, 0], fine[:, 1], atol=1e-5)
    assert torch.allclose(classifier(tokens)[:, 1], fine[:, 0] + fine[:, 2], atol=1e-5)
    before = classifier(tokens)
    classifier.reorder(torch.tensor([1, 0]))
    assert torch.equal(classifier(tokens), before.flip(1))


def test_prototypes_that_lie_together_become_a_class() -> None:
    prototypes = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0], [1.0, -0.1], [-0.1, 1.0]]), dim=1)
    vectors = prototypes.repeat_interleave(torch.tensor([5, 3, 4, 2]), 0) * 3.0
    assert ward_groups(vectors, prototypes, 2).tolist() == [0, 1, 0, 1]


def test_three_clusters_per_class_and_eighteen_where_classes_are_few() -> None:
    assert Recipe(Steady(), num_classes=3).fine_clusters == 18
    assert Recipe(Steady(), num_classes=11).fine_clusters == 33
    assert Recipe(Steady(), num_classes=3, clusters=27).fine_clusters is None
    assert Recipe(KMeans(), num_classes=3).fine_clusters is None
