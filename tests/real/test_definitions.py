"""Our custom resources on a real Kubernetes, whose API server judges schemas and their rules more strictly than any other."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("moorage.testing.conformance.definitions")

from moorage.testing.conformance.definitions import DefinitionConformance  # noqa: E402


class TestOnRealKubernetes(DefinitionConformance):
    pass
