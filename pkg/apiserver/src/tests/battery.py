"""What the Python client of Kubernetes does with an API server: lists, watches that resume, patches, deletions.

Uses the cluster of $KUBECONFIG, in a namespace of its own. Works with any API server of Kubernetes.
"""

import json
import sys
import threading
import time
import uuid

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core = client.CoreV1Api()
leases = client.CoordinationV1Api()
NS = "battery-" + uuid.uuid4().hex[:8]
tests = []


def test(f):
    tests.append(f)
    return f


def fails(code, reason, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as e:
        body = json.loads(e.body)
        assert (e.status, body["reason"]) == (code, reason), (e.status, body)
        return body
    raise AssertionError(f"{call.__name__} did not fail with {code} {reason}")


def config_map(name, data=None, **meta):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, **meta), data=data)


@test
def create_read_replace_delete():
    made = core.create_namespaced_config_map(NS, config_map("a", {"k": "1"}))
    assert made.metadata.uid and made.metadata.resource_version
    fails(409, "AlreadyExists", core.create_namespaced_config_map, NS, config_map("a"))
    made.data["k"] = "2"
    core.replace_namespaced_config_map("a", NS, made)
    fails(409, "Conflict", core.replace_namespaced_config_map, "a", NS, made)
    assert core.read_namespaced_config_map("a", NS).data == {"k": "2"}
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    fails(409, "Conflict", core.delete_namespaced_config_map, "a", NS, body=wrong)
    core.delete_namespaced_config_map("a", NS)
    fails(404, "NotFound", core.read_namespaced_config_map, "a", NS)


@test
def faults_name_their_fields():
    body = fails(422, "Invalid", core.create_namespaced_config_map, NS, config_map("UP"))
    assert body["details"]["causes"][0]["field"] == "metadata.name", body
    fails(404, "NotFound", core.create_namespaced_config_map, NS + "-none", config_map("a"))


@test
def lists_in_pages_and_by_selectors():
    for i in range(7):
        core.create_namespaced_config_map(NS, config_map(f"page-{i}", labels={"odd": str(i % 2)}))
    seen, token = [], None
    while True:
        page = core.list_namespaced_config_map(NS, limit=3, _continue=token, label_selector="odd")
        seen += [o.metadata.name for o in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert seen == [f"page-{i}" for i in range(7)], seen
    odd = core.list_namespaced_config_map(NS, label_selector="odd=1")
    assert len(odd.items) == 3
    one = core.list_namespaced_config_map(NS, field_selector="metadata.name=page-3")
    assert [o.metadata.name for o in one.items] == ["page-3"]
    exact = core.list_namespaced_config_map(
        NS, resource_version=one.metadata.resource_version, resource_version_match="NotOlderThan"
    )
    assert len(exact.items) >= 7
    core.delete_collection_namespaced_config_map(NS, label_selector="odd")
    assert not core.list_namespaced_config_map(NS, label_selector="odd").items


@test
def patches():
    core.create_namespaced_config_map(NS, config_map("patched", {"a": "1"}))
    merged = core.patch_namespaced_config_map("patched", NS, {"data": {"b": "2"}})
    assert merged.data == {"a": "1", "b": "2"}
    ops = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]
    assert core.patch_namespaced_config_map("patched", NS, ops).data == {"b": "2"}
    pod = {
        "metadata": {"name": "patched"},
        "spec": {"containers": [{"name": "one", "image": "i:1"}, {"name": "two", "image": "i:1"}]},
    }
    core.create_namespaced_pod(NS, pod)
    change = {"spec": {"containers": [{"name": "two", "image": "i:2"}]}}
    images = [c.image for c in core.patch_namespaced_pod("patched", NS, change).spec.containers]
    assert images == ["i:1", "i:2"], images
    core.patch_namespaced_pod_status("patched", NS, {"status": {"phase": "Running"}})
    assert core.read_namespaced_pod("patched", NS).status.phase == "Running"
    core.delete_namespaced_pod("patched", NS, grace_period_seconds=0)


@test
def apply():
    def applied(data, manager, force=None):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}
        return core.patch_namespaced_config_map(
            "applied", NS, body, field_manager=manager, force=force, _content_type="application/apply-patch+yaml"
        )

    applied({"a": "1", "b": "1"}, "one")
    assert applied({"a": "1"}, "one").data == {"a": "1"}
    body = fails(409, "Conflict", applied, {"a": "2"}, "two")
    assert body["details"]["causes"][0]["reason"] == "FieldManagerConflict", body
    assert applied({"a": "2"}, "two", force=True).data == {"a": "2"}


@test
def watches_resume():
    start = core.list_namespaced_config_map(NS).metadata.resource_version
    for i in range(5):
        core.create_namespaced_config_map(NS, config_map(f"w-{i}"))
    seen, version = [], start
    # Two events a watch: each goes on where the one before ended.
    while len(seen) < 5:
        w = watch.Watch()
        for event in w.stream(core.list_namespaced_config_map, NS, resource_version=version, timeout_seconds=10):
            seen.append((event["type"], event["object"].metadata.name))
            version = event["object"].metadata.resource_version
            if len(seen) % 2 == 0 or len(seen) == 5:
                w.stop()
    assert seen == [("ADDED", f"w-{i}") for i in range(5)], seen


@test
def watches_follow():
    seen = []
    w = watch.Watch()
    start = core.list_namespaced_config_map(NS).metadata.resource_version

    def follow():
        for event in w.stream(core.list_namespaced_config_map, NS, resource_version=start, timeout_seconds=20):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                w.stop()

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(NS, config_map("followed"))
    core.patch_namespaced_config_map("followed", NS, {"data": {"a": "b"}})
    core.delete_namespaced_config_map("followed", NS)
    thread.join(20)
    assert seen == [(t, "followed") for t in ("ADDED", "MODIFIED", "DELETED")], seen


@test
def old_watches_are_told():
    w = watch.Watch()
    try:
        for _ in w.stream(core.list_namespaced_config_map, NS, resource_version="1", timeout_seconds=2):
            break
    except ApiException as e:
        assert e.status == 410, e


@test
def leases_count_in_microseconds():
    now = time.strftime("%Y-%m-%dT%H:%M:%S.123456Z", time.gmtime())
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 40, "renewTime": now}
    leases.create_namespaced_lease(NS, {"metadata": {"name": "l"}, "spec": spec})
    assert leases.read_namespaced_lease("l", NS).spec.renew_time.microsecond == 123456


@test
def dry_runs_write_nothing():
    core.create_namespaced_config_map(NS, config_map("dry"), dry_run="All")
    fails(404, "NotFound", core.read_namespaced_config_map, "dry", NS)


@test
def discovery():
    resources = {r.name: r for r in core.get_api_resources().resources}
    assert "pods/status" in resources and "watch" in resources["pods"].verbs
    assert "coordination.k8s.io" in [g.name for g in client.ApisApi().get_api_versions().groups]
    assert client.VersionApi().get_code().major == "1"


core.create_namespace({"metadata": {"name": NS}})
failed = 0
try:
    for t in tests:
        try:
            t()
            print(f"ok     {t.__name__}")
        except Exception as e:  # noqa: BLE001: every fault is told, and the next test runs
            failed += 1
            print(f"FAILED {t.__name__}: {type(e).__name__}: {e}")
finally:
    core.delete_namespace(NS)
print(f"{len(tests) - failed} passed, {failed} failed")
sys.exit(bool(failed))
