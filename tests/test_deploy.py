"""The documents of deploy/kubernetes: valid, consistent, and as strict as said."""

import copy
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_files import (
    CLUSTER,
    CONTAINER,
    DOCUMENTS,
    GPU,
    JOB,
    KUBERNETES,
    KUSTOMIZATION,
    PODS,
    TAG,
    Document,
    command,
    container,
    each_pod,
    option,
)  # fmt: skip

from bgscale.cli import main
from bgscale.config import RunConfig

OLDEST_KUBERNETES = "1.29"


def core_documents() -> Iterator[tuple[str, Document]]:
    """Yield what Kubernetes itself knows, also the parts of the operator's documents."""
    for (kind, name), document in DOCUMENTS.items():
        if not document["apiVersion"].startswith("kubernetes.dask.org"):
            yield f"{kind} {name}", document
    for name, pod in PODS.items():
        metadata = {"name": name.replace(" ", "-")}
        yield f"Pod {name}", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bgscale-scheduler"}}
    yield "Service", {**service, "spec": CLUSTER["scheduler"]["service"]}


CORE = dict(core_documents())
each_core = pytest.mark.parametrize("document", CORE.values(), ids=list(CORE))


def assert_valid(document: Document, *, version: str = "") -> None:
    """Assert that Kubernetes knows every key of a document, and that values are of its types."""
    schemas = pytest.importorskip("kubernetes_validate", reason="no schemas of Kubernetes")
    schemas.validate(document, version or schemas.latest_version(), strict=True)


@each_core
def test_documents_have_the_schema_of_kubernetes(document: Document) -> None:
    assert_valid(document)
    assert_valid(document, version=OLDEST_KUBERNETES)


@each_core
def test_a_misspelt_key_would_be_found(document: Document) -> None:
    document = copy.deepcopy(document)
    part = document["data" if "data" in document else "spec"]
    part["run.toml" if "data" in document else "replicsa"] = 4
    schemas = pytest.importorskip("kubernetes_validate", reason="no schemas of Kubernetes")
    with pytest.raises(schemas.ValidationError):
        assert_valid(document)


def test_the_operators_documents_have_its_keys_and_no_others() -> None:
    for kind in ("DaskCluster", "DaskWorkerGroup"):
        [document] = [d for (k, _), d in DOCUMENTS.items() if k == kind]
        assert document["apiVersion"] == "kubernetes.dask.org/v1"
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(CLUSTER) == {"scheduler", "worker"}
    assert {"spec", "service"} <= set(CLUSTER["scheduler"]) <= {"spec", "service", "metadata"}
    assert set(GPU) == {"cluster", "worker"}
    for worker in (CLUSTER["worker"], GPU["worker"]):
        assert set(worker) == {"replicas", "spec"}
        assert isinstance(worker["replicas"], int)


def operator(part: str) -> Path:
    """Return a folder of the installed operator, or skip."""
    spec = importlib.util.find_spec("dask_kubernetes")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("dask-kubernetes is not installed: its own schemas are not tried")
    return Path(spec.submodule_search_locations[0]) / "operator" / part


def strict(schema: Any) -> Any:
    """Return a schema that refuses what a server would silently drop."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        stricter["additionalProperties"] = False
    return stricter


@pytest.mark.parametrize("kind", ["DaskCluster", "DaskWorkerGroup"])
def test_the_operators_documents_have_its_own_schema(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    crds = operator("deployment") / "helm" / "dask-kubernetes-operator" / "crds"
    crd = yaml.safe_load((crds / f"{kind.lower()}.yaml").read_text(encoding="utf-8"))
    [version] = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    [document] = [d for (k, _), d in DOCUMENTS.items() if k == kind]
    jsonschema.validate(document["spec"], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document["spec"], "replicsa": 4}, schema)


def test_what_the_operator_makes_has_the_names_and_labels_that_are_used() -> None:
    operator("controller")
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller")
    document = DOCUMENTS["DaskCluster", "bgscale"]
    name, labels = document["metadata"]["name"], document["metadata"]["labels"]
    service = controller.build_scheduler_service_spec(
        name, CLUSTER["scheduler"]["service"], {}, labels
    )
    assert service["metadata"]["name"] == "bgscale-scheduler"
    scheduler = controller.build_scheduler_deployment_spec(name, PODS["scheduler"], {}, labels)
    worker = controller.build_worker_deployment_spec(
        "bgscale-default", "lab", name, "0", PODS["worker"], {}, labels
    )
    made = scheduler["spec"]["template"]
    assert CLUSTER["scheduler"]["service"]["selector"].items() <= made["metadata"]["labels"].items()
    allowed = DOCUMENTS["NetworkPolicy", "bgscale"]["spec"]["podSelector"]["matchLabels"].items()
    for deployment in (scheduler, worker):
        assert allowed <= deployment["spec"]["template"]["metadata"]["labels"].items()
        assert_valid(deployment)
    given = {e["name"] for e in container(worker["spec"]["template"]["spec"])["env"]}
    assert "DASK_WORKER_NAME" in given


def test_names_match_between_documents() -> None:
    cluster = "bgscale"
    address = f"tcp://{cluster}-scheduler:8786"
    assert GPU["cluster"] == cluster
    assert option(PODS["driver"], "--cluster") == address
    for name in ("worker", "gpu worker"):
        assert command(PODS[name])[:3] == ["dask", "worker", address]
    service = CLUSTER["scheduler"]["service"]
    assert service["type"] == "ClusterIP"
    assert service["selector"] == {
        "dask.org/cluster-name": cluster,
        "dask.org/component": "scheduler",
    }
    [port] = service["ports"]
    [listening] = container(PODS["scheduler"])["ports"]
    assert port["name"] == port["targetPort"] == listening["name"] == "tcp-comm"
    assert port["port"] == listening["containerPort"] == 8786
    assert option(PODS["scheduler"], "--port") == "8786"


def test_only_pods_of_the_run_reach_it() -> None:
    policy = DOCUMENTS["NetworkPolicy", "bgscale"]["spec"]
    ours = {"matchLabels": {"dask.org/cluster-name": "bgscale"}}
    assert policy["podSelector"] == ours
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": ours}]}]
    labels = JOB["template"]["metadata"]["labels"]
    assert ours["matchLabels"].items() <= labels.items()
    # the operator counts and moves pods by their component
    assert labels["dask.org/component"] not in ("scheduler", "worker", "job-runner")


def test_nothing_but_the_scheduler_port_is_open_to_others() -> None:
    assert option(PODS["scheduler"], "--dashboard-address") == "127.0.0.1:8787"
    for name in ("worker", "gpu worker"):
        assert option(PODS[name], "--dashboard-address") == "127.0.0.1:0"


@each_pod
def test_volumes_and_secrets_are_there(pod: Document) -> None:
    mounts = container(pod)["volumeMounts"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts} == set(volumes)
    assert {"name": "tmp", "mountPath": "/tmp"} in mounts
    assert "emptyDir" in volumes["tmp"]
    for volume in volumes.values():
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in DOCUMENTS
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in DOCUMENTS
    for source in container(pod).get("envFrom", []):
        assert source == {"secretRef": {"name": "bgscale-s3", "optional": True}}


def test_driver_and_workers_see_the_same_files() -> None:
    def shared(pod: Document) -> set[tuple[str, str]]:
        mounts = container(pod)["volumeMounts"]
        return {(m["name"], m["mountPath"]) for m in mounts if m["name"] not in ("tmp", "driver")}

    expected = {("config", "/config"), ("data", "/data")}
    for name in ("worker", "gpu worker", "driver"):
        assert shared(PODS[name]) == expected
        assert container(PODS[name])["envFrom"] == container(PODS["driver"])["envFrom"]
    claim = DOCUMENTS["PersistentVolumeClaim", "bgscale-data"]["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]


@each_pod
def test_pods_have_no_rights(pod: Document) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for key in ("hostNetwork", "hostPID", "hostIPC", "serviceAccountName"):
        assert key not in pod
    assert not any("hostPath" in volume for volume in pod["volumes"])


@each_pod
def test_pods_get_what_they_ask_for(pod: Document) -> None:
    resources = container(pod)["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])


@pytest.mark.parametrize("name", ["worker", "gpu worker"])
def test_a_worker_is_one_process_with_one_thread(name: str) -> None:
    assert option(PODS[name], "--nworkers") == "1"
    assert option(PODS[name], "--nthreads") == "1"
    assert "--nanny" in command(PODS[name])
    assert "--lifetime" not in command(PODS[name])
    assert 0.5 < float(option(PODS[name], "--memory-limit")) < 1


def test_one_gpu_is_one_worker() -> None:
    assert option(PODS["gpu worker"], "--resources") == "GPU=1"
    assert container(PODS["gpu worker"])["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "--resources" not in command(PODS["worker"])
    assert "nvidia.com/gpu" not in container(PODS["worker"])["resources"]["limits"]


def test_the_driver_waits_for_the_workers_that_are_asked_for() -> None:
    asked = {entry["name"]: entry["value"] for entry in container(PODS["driver"])["env"]}
    with_gpu = "gpu-workers.yaml" in KUSTOMIZATION["resources"]
    assert asked["CPU_WORKERS"] == str(CLUSTER["worker"]["replicas"])
    assert asked["GPU_WORKERS"] == (str(GPU["worker"]["replicas"]) if with_gpu else "0")


@each_pod
def test_images_are_those_of_this_version(pod: Document) -> None:
    name, tag = container(pod)["image"].split(":")
    assert tag == TAG
    assert name == ("bgscale-cuda" if pod is PODS["gpu worker"] else "bgscale")
    assert {i["name"]: i["newTag"] for i in KUSTOMIZATION["images"]}[name] == TAG


def test_applying_the_folder_applies_a_run_but_not_its_volume() -> None:
    applied = set(KUSTOMIZATION["resources"])
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert applied == there - {"storage.yaml", "gpu-workers.yaml"}


def test_nothing_secret_is_written_down() -> None:
    assert not [key for key in DOCUMENTS if key[0] == "Secret"]
    for pod in PODS.values():
        for entry in container(pod).get("env", []):
            assert not re.search("KEY|SECRET|TOKEN|PASSWORD|AWS", entry["name"]), entry
    for path in [*KUBERNETES.iterdir(), *CONTAINER.iterdir()]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"AKIA\w{16}", text)
        for value in re.findall(r"(?:SECRET|ACCESS|TOKEN|PASSWORD)\w*=(.*)", text):
            assert value == "..."


def test_the_config_is_one_and_so_is_its_other_choice() -> None:
    text = DOCUMENTS["ConfigMap", "bgscale-config"]["data"]["run.toml"]
    config = RunConfig.from_dict(tomllib.loads(text))
    assert config.store == "/data/results.zarr"
    weights = config.models["tiny"].weights
    for path in (config.screen.path, config.screen.plate_map, weights):
        assert path.startswith("/data/")
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            lines.pop()
        lines.append(line.removeprefix("# "))
    bucket = RunConfig.from_dict(tomllib.loads("\n".join(lines)))
    assert bucket.store.startswith("s3://")
    assert bucket.screen.path.startswith("s3://")


def test_the_driver_has_time_to_drain() -> None:
    assert PODS["driver"]["terminationGracePeriodSeconds"] >= 600
    assert PODS["driver"]["restartPolicy"] == "Never"


def test_one_driver_at_a_time() -> None:
    assert JOB["parallelism"] == JOB["completions"] == 1
    assert JOB["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("folder", [KUBERNETES, CONTAINER], ids=["kubernetes", "container"])
def test_a_readme_names_the_files_that_are_there(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    for link in links:
        assert (folder / link).exists(), link
    assert {path.name for path in folder.iterdir()} - {"README.md"} <= links
    for tag in re.findall(r"\bbgscale(?:-cuda)?:([\w.]+)", text):
        assert tag == TAG
    for verb in re.findall(r"-- bgscale (\w+)", text):
        assert verb in main.commands
