"""The files of deploy/ as data, for the tests of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import bgscale

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
CONTAINER = ROOT / "deploy" / "container"
TAG = bgscale.__version__
Document = dict[str, Any]


def documents() -> dict[tuple[str, str], Document]:
    """Return all documents by kind and name."""
    found: dict[tuple[str, str], Document] = {}
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            key = (document["kind"], document["metadata"]["name"])
            assert key not in found
            found[key] = document
    return found


DOCUMENTS = documents()
CLUSTER = DOCUMENTS["DaskCluster", "bgscale"]["spec"]
GPU = DOCUMENTS["DaskWorkerGroup", "bgscale-gpu"]["spec"]
JOB = DOCUMENTS["Job", "bgscale-driver"]["spec"]
PODS = {
    "scheduler": CLUSTER["scheduler"]["spec"],
    "worker": CLUSTER["worker"]["spec"],
    "gpu worker": GPU["worker"]["spec"],
    "driver": JOB["template"]["spec"],
}
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))


def container(pod: Document) -> Document:
    """Return the only container of a pod."""
    [only] = pod["containers"]
    assert "initContainers" not in pod
    return dict(only)


def command(pod: Document) -> list[str]:
    """Return the whole command line of a pod."""
    only = container(pod)
    return [*only["command"], *only.get("args", [])]


def option(pod: Document, name: str) -> str:
    """Return the value of an option of a pod's command."""
    words = command(pod)
    return words[words.index(name) + 1]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


DOCKERFILE = CONTAINER / "Dockerfile"
INSTRUCTIONS = instructions(DOCKERFILE)


def arguments(name: str) -> list[str]:
    """Return the arguments of all instructions of a name."""
    return [words for instruction, words in INSTRUCTIONS if instruction == name]


def definition() -> dict[str, list[str]]:
    """Return the sections of the Apptainer definition, without comments."""
    sections: dict[str, list[str]] = {"": []}
    current = sections[""]
    for line in (CONTAINER / "bgscale.def").read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            current = sections.setdefault(line[1:].strip(), [])
        elif line.strip() and not line.lstrip().startswith("#"):
            current.append(line.strip())
    return sections
