"""Fixtures of the tests that need a cluster."""

from tests.e2e.kubectl import kubectl as kubectl
from tests.e2e.s3 import namespaces as namespaces
from tests.e2e.s3 import s3 as s3
