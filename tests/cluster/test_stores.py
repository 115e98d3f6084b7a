"""What the operator knows: the newest of each object, whose it is, and whom a change concerns."""

from __future__ import annotations

import pytest
from pretrain_operator.cluster.stores import Stores
from pretrain_operator.resources import JOBS, PODS, PRETRAIN_JOBS
from pretrain_operator.storage_claim import bucket

from tests.cluster.objects import NAMESPACE, child, finished, pretrain_job

SMALL = (NAMESPACE, "small")


@pytest.fixture
def stores() -> Stores:
    return Stores(bucket)


def test_news_concerns_the_job_and_nothing_is_news_twice(stores: Stores) -> None:
    assert stores.put(pretrain_job()) == {SMALL}
    assert stores.put(pretrain_job()) == set()
    assert stores.put(child("Job", "small-clean", 5)) == {SMALL}
    assert stores.put(child("Job", "small-clean", 5)) == set()


def test_an_older_version_replaces_nothing(stores: Stores) -> None:
    """A watch that lags behind our own write; versions are numbers, not texts: 10 is after 9."""
    stores.put(pretrain_job())
    stores.put(child("Job", "small-clean", 10, status={"succeeded": 1}))
    assert stores.put(child("Job", "small-clean", 9, status={})) == set()
    assert stores.observed(pretrain_job()).workloads[0]["status"] == {"succeeded": 1}


def test_a_late_answer_brings_back_nothing_that_was_deleted(stores: Stores) -> None:
    stores.put(pretrain_job())
    stores.put(child("Job", "small-clean", 5))
    assert stores.drop(child("Job", "small-clean", 7)) == {SMALL}
    assert stores.put(child("Job", "small-clean", 6)) == set()
    assert stores.observed(pretrain_job()).workloads == ()


def test_the_end_of_an_object_is_not_the_end_of_its_successor(stores: Stores) -> None:
    stores.put(child("Job", "small-clean", 5, uid="first"))
    stores.put(child("Job", "small-clean", 8, uid="second"))
    assert stores.drop(child("Job", "small-clean", 7, uid="first")) == set()
    assert len(stores.observed(pretrain_job()).workloads) == 1


def test_only_what_the_job_controls_is_the_jobs(stores: Stores) -> None:
    """A label is anybody's to set; and a deleted job's children outlive it for a while, beside those of its namesake."""
    stores.put(child("Job", "mine"))
    stores.put(child("Job", "labelled", owner=None))
    stores.put(child("Job", "of-an-earlier-one", owner="uid-earlier"))
    stores.put(child("ConfigMap", "small-job", data={"job.json": "{}"}))
    stores.put(child("Pod", "mine-0", owner="uid-mine", owner_kind="Job"))
    stores.put(child("Pod", "labelled-0", owner=None))
    stores.put(child("Pod", "earlier-0", owner="uid-of-an-earlier-one", owner_kind="Job"))
    observed = stores.observed(pretrain_job())
    assert [body["metadata"]["name"] for body in observed.workloads] == ["mine"]
    assert [body["metadata"]["name"] for body in observed.config_maps] == ["small-job"]
    assert "mine-0" in {body["metadata"]["name"] for body in observed.pods}
    assert "labelled-0" not in {body["metadata"]["name"] for body in observed.pods}


def test_other_namespaces_have_jobs_of_the_same_name(stores: Stores) -> None:
    other = child("Job", "theirs")
    other["metadata"]["namespace"] = "other"
    assert stores.put(other) == {("other", "small")}
    assert stores.observed(pretrain_job()).workloads == ()


def test_rivals_are_the_other_jobs_of_the_bucket(stores: Stores) -> None:
    for name, in_bucket in (("small", "models"), ("rival", "models"), ("apart", "elsewhere")):
        stores.put(pretrain_job(name, bucket=in_bucket))
    assert [body["metadata"]["name"] for body in stores.observed(pretrain_job()).rivals] == ["rival"]


def test_rivals_hear_of_what_may_free_the_storage(stores: Stores) -> None:
    """Of a job's coming, end and deletion; not of its progress."""
    small, rival = pretrain_job(), pretrain_job("rival")
    both = {SMALL, (NAMESPACE, "rival")}
    stores.put(rival)
    assert stores.put(small) == both
    assert stores.put(pretrain_job(version=2, status={"phase": "Training"})) == {SMALL}
    assert stores.put(finished(small, 3)) == both
    assert stores.drop(small) == both


def test_what_nobody_reads_is_not_kept(stores: Stores) -> None:
    job = pretrain_job()
    job["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "kept"}
    stores.put(job)
    stores.put(child("ConfigMap", "small-job", data={"job.json": "{}"}))
    stores.put(
        child("Pod", "p", owner="uid-j", spec={"nodeName": "node-1", "containers": [{}]}, status={"phase": "Running"})
    )
    stores.put(child("Job", "j"))
    kept = stores.job(SMALL)
    assert kept is not None
    assert kept["metadata"]["annotations"] == {"mine": "kept"}
    observed = stores.observed(kept)
    assert "data" not in observed.config_maps[0]
    assert observed.pods[0]["spec"] == {"nodeName": "node-1"}
    assert all("managedFields" not in body["metadata"] for body in (*observed.pods, *observed.workloads))


def test_a_list_heals_what_no_watch_told(stores: Stores) -> None:
    """What a list does not have was deleted unseen, unless it is younger than the list, or of a namespace not listed."""
    stores.put(pretrain_job(version=1))
    for name, version in (("deleted", 5), ("listed", 6), ("younger", 12)):
        stores.put(child("Job", name, version))
    other = child("Job", "theirs", 5)
    other["metadata"]["namespace"] = "other"
    stores.put(other)
    assert stores.prune(JOBS, NAMESPACE, [(NAMESPACE, "listed")], "10") == {SMALL}
    names = [body["metadata"]["name"] for body in stores.observed(pretrain_job()).workloads]
    assert names == ["listed", "younger"]
    assert stores.get("Job", ("other", "theirs")) is not None
    assert stores.prune(JOBS, None, [(NAMESPACE, "listed")], "20") == {SMALL, ("other", "small")}


def test_all_jobs_can_be_looked_at_again(stores: Stores) -> None:
    stores.put(pretrain_job())
    stores.put(pretrain_job("other", bucket="elsewhere"))
    assert stores.jobs() == {SMALL, (NAMESPACE, "other")}
    stores.prune(PRETRAIN_JOBS, None, [], "99")
    assert stores.jobs() == set()
    assert stores.job(SMALL) is None
    assert stores.prune(PODS, None, [], "99") == set()
