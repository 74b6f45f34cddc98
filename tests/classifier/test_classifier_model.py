"""The classifier around a network: G-ODIN's head, crops of larger pictures, the sets that it suits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_samples import architecture_of, classifier_of, images_for

from sio_ray.classifier.networks import GODINHead
from sio_ray.errors import BatchError, EvaluationError


def test_godins_logits_are_a_cosine_over_a_sigmoid():
    torch.manual_seed(0)
    head = GODINHead(7, 4)
    head(3 * torch.rand(64, 7))
    head.eval()
    features = torch.randn(5, 7)
    state = {name: value.double().numpy() for name, value in head.state_dict().items()}
    x = features.double().numpy()
    h = np.stack([[row @ w / np.linalg.norm(row) / np.linalg.norm(w) for w in state["h.weight"]] for row in x])
    z = x @ state["g.0.weight"][0] + state["g.0.bias"]
    z = (z - state["g.1.running_mean"]) / np.sqrt(state["g.1.running_var"] + 1e-5) * state["g.1.weight"]
    g = 1 / (1 + np.exp(-z - state["g.1.bias"]))
    with torch.no_grad():
        np.testing.assert_allclose(head.numerators(features).numpy(), h, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(head(features).numpy(), h / g[:, None], rtol=2e-3, atol=1e-5)
    assert (np.abs(h) <= 1).all()
    assert set(head.state_dict()) == {
        *("h.weight", "g.0.weight", "g.0.bias", "g.1.weight", "g.1.bias"),
        *("g.1.running_mean", "g.1.running_var", "g.1.num_batches_tracked"),
    }


def test_godins_head_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    head = GODINHead(512, 10).eval()
    features = torch.randn(4, 512)
    with torch.no_grad():
        expected = head(features)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(head(features), expected)


def test_a_classifier_with_godins_head_has_no_last_layer_to_read():
    classifier = classifier_of("small_cnn", head="g_odin")
    images = images_for(classifier)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), classifier.head(classifier.features(images)))
    with pytest.raises(EvaluationError) as error:
        _ = classifier.last_layer
    assert str(error.value) == (
        "a classifier with the head g_odin has no linear last layer for a detector to read; "
        "leave out the detectors that need one, such as vim."
    )


@pytest.mark.parametrize(("stored", "top", "left"), [((12, 16), 2, 4), ((13, 11), 2, 2), ((8, 9), 0, 0)])
def test_evaluation_crops_the_centre_of_larger_pictures(stored, top, left):
    classifier = classifier_of("small_cnn")
    images = torch.rand(2, 3, *stored)
    centre = images[:, :, top : top + 8, left : left + 8]
    with torch.no_grad():
        for ask in (classifier, classifier.features, lambda x: classifier.feature_maps(x)[0]):
            assert torch.equal(ask(images), ask(centre.contiguous()))
    from torchvision.transforms.v2.functional import center_crop

    assert torch.equal(center_crop(images, [8, 8]), centre)


def test_pictures_of_other_sizes_are_refused():
    classifier = classifier_of("small_cnn")
    with pytest.raises(BatchError) as error:
        classifier(torch.rand(2, 3, 12, 7))
    assert str(error.value) == (
        "pictures must be of 8x8 px or more, got 7x12; give pictures as the classifier was trained on."
    )
    with pytest.raises(BatchError) as error:
        classifier.train()(torch.rand(2, 3, 12, 8))
    assert str(error.value) == "pictures must be of 8x8 px, got 8x12; give pictures as the classifier was trained on."


@pytest.mark.parametrize(
    ("class_names", "image_shape", "suits"),
    [
        (("c0", "c1", "c2", "c3", "c4"), (3, 8, 8), True),
        (("c0", "c1", "c2", "c3", "c4"), (3, 10, 8), True),
        (("c0", "c1", "c2", "c3", "c4"), (3, 10, 7), False),
        (("c0", "c1", "c2", "c3", "c4"), (1, 8, 8), False),
        (("c1", "c0", "c2", "c3", "c4"), (3, 8, 8), False),
    ],
)
def test_an_architecture_suits_sets_of_its_classes_and_of_pictures_that_hold_its_own(class_names, image_shape, suits):
    assert architecture_of("small_cnn", (3, 8, 8)).suits(class_names, image_shape) is suits
