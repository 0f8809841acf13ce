"""The efficiency columns of the published tables."""

import pytest

from models import MODELS, build_model
from utils.complexity import complexity


@pytest.mark.parametrize(
    ("name", "parameters", "kib", "products", "published"),
    [
        ("DeepPro", 49_129, 191.91, 4.83, 5.345),
        ("DeepPro-Plus", 70_913, 277.00, 20.14, 20.52),
        ("Res-UNet+DTUM", 298_305, 1165.25, 52.6086, 53.979),
        # Published: 3980 KB, 48.2 G, which the released code does not have.
        ("Res-U+RFR", 1_024_055, 4000.21, 40.0723, 40.329),
    ],
)
def test_published_columns_at_480x720(name, parameters, kib, products, published):
    found = complexity(build_model(name))
    assert found.parameters == parameters
    assert found.kib == pytest.approx(kib, abs=0.005)
    assert found.products / 1e9 == pytest.approx(products, abs=0.005)
    assert found.with_norms / 1e9 == pytest.approx(published, abs=0.005)


def test_streaming_runs_one_unet_a_frame():
    found = complexity(build_model("Res-UNet+DTUM"), streaming=True)
    assert found.products / 1e9 == pytest.approx(32.2818, abs=0.0005)
    assert found.with_norms / 1e9 == pytest.approx(33.094, abs=0.0005)


def test_the_reconstruction_is_within_one_percent_of_both_published_numbers():
    found = complexity(build_model("STDMANet"))
    assert found.parameters == pytest.approx(11_879_424, rel=0.01)
    assert found.kib == pytest.approx(46_404, rel=0.01)
    assert found.with_norms / 1e9 == pytest.approx(503.8, rel=0.01)


def test_products_grow_with_the_area_where_all_layers_are_at_full_size():
    model = build_model("DeepPro-Plus", seqlen=7)
    assert complexity(model, 20, 30).products == 6 * complexity(model, 10, 10).products


@pytest.mark.parametrize("name", MODELS)
def test_every_detector_is_counted_and_left_as_it_was(name):
    detector = build_model(name).train()
    found = complexity(detector, 16, 24)
    assert detector.training and all(p.device.type == "cpu" for p in detector.parameters())
    assert found.with_norms >= found.products >= 0
    assert (found.parameters == 0) == (found.products == 0)
