"""Fixtures of the tests that need a cluster."""

import pytest

from tests.e2e.audit import began as began
from tests.e2e.installed import crd as crd
from tests.e2e.installed import operators as operators
from tests.e2e.kubectl import kubectl as kubectl
from tests.e2e.nodes import nodes as nodes
from tests.e2e.operator_process import known as known
from tests.e2e.operator_process import place as place
from tests.e2e.paced import paced as paced
from tests.e2e.s3 import namespaces as namespaces
from tests.e2e.s3 import s3 as s3
from tests.e2e.served import serving as serving
from tests.e2e.undisturbed import undisturbed as undisturbed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are marked `afterwards` look at what all others have left."""
    items.sort(key=lambda item: item.get_closest_marker("afterwards") is not None)
