"""Waiting until new kinds may own objects, on an API server that learns of them late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from moorage.errors import Forbidden, Unavailable
from moorage.kube.cluster import Cluster
from moorage.kube.kinds import CONFIG_MAP, ONLINE_DEPLOYMENT, TRAINING_JOB
from moorage.kube.owners import accepted_as_owners
from moorage.testing.faults import Request, WiredCluster
from moorage.testing.memory import in_memory_cluster

UNKNOWN = (
    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion moorage.dev/v1alpha1 Kind TrainingJob: "
    'no matches for kind "TrainingJob" in version "moorage.dev/v1alpha1"'
)


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with in_memory_cluster() as memory:
        yield memory


async def asked(cluster: Cluster, *errors: Exception) -> int:
    """How often it asked until it returned, the first answers being these."""
    left = list(errors)

    def before(request: Request) -> None:
        if request.verb == "create" and left:
            raise left.pop(0)

    wired = WiredCluster(cluster, before=before)
    await accepted_as_owners(wired, "default", [TRAINING_JOB, ONLINE_DEPLOYMENT], pause=timedelta(milliseconds=1))
    return sum(request.verb == "create" for request in wired.requests)


async def test_it_asks_until_the_kinds_are_known_and_leaves_nothing(cluster: Cluster) -> None:
    assert await asked(cluster, Forbidden(UNKNOWN), Unavailable("away"), Forbidden(UNKNOWN)) == 4
    left = (await cluster.list(CONFIG_MAP, "default")).items
    assert not [found for found in left if found["metadata"]["name"].startswith("moorage-owner-")]


async def test_a_missing_right_is_no_reason_to_wait(cluster: Cluster) -> None:
    assert await asked(cluster, Forbidden("cannot create resource configmaps")) == 1
