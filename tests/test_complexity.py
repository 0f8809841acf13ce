"""The efficiency columns of the published tables."""

import pytest

from models import build_model
from utils.complexity import complexity


@pytest.mark.parametrize(
    ("name", "parameters", "kib", "products", "published"),
    [
        ("DeepPro", 49_129, 192, 4.83, 5.345),
        ("DeepPro-Plus", 70_913, 277, 20.14, 20.52),
    ],
)
def test_published_columns_at_480x720(name, parameters, kib, products, published):
    found = complexity(build_model(name))
    assert found.parameters == parameters
    assert round(found.kib) == kib
    assert found.products / 1e9 == pytest.approx(products, abs=0.005)
    assert found.with_norms / 1e9 == pytest.approx(published, abs=0.005)


def test_products_grow_with_the_area_where_all_layers_are_at_full_size():
    model = build_model("DeepPro-Plus", seqlen=7)
    assert complexity(model, 20, 30).products == 6 * complexity(model, 10, 10).products
