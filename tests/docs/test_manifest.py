"""The image and the Kubernetes manifest: what Kubeflow's API takes, and a command that trains under its variables."""

import copy
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import (
    IoK8sApiCoreV1PersistentVolumeClaim,
    TrainerV1alpha1TrainingRuntime,
    TrainerV1alpha1TrainJob,
)
from torch.distributed.run import get_args_parser

from dist_train.settings.loader import load_config
from dist_train.settings.schedule import check_ranks
from tests.conftest import ROOT, Python

Object = dict[str, Any]
MANIFEST = ROOT / "slurm" / "trainjob.yaml"
CLAIM, RUNTIME, JOB = yaml.safe_load_all(MANIFEST.read_text())
KINDS = {
    "PersistentVolumeClaim": IoK8sApiCoreV1PersistentVolumeClaim,
    "TrainingRuntime": TrainerV1alpha1TrainingRuntime,
    "TrainJob": TrainerV1alpha1TrainJob,
}
NODE = RUNTIME["spec"]["template"]["spec"]["replicatedJobs"][0]
PODS = NODE["template"]["spec"]["template"]["spec"]
CONTAINER = PODS["containers"][0]
TRAINER = JOB["spec"]["trainer"]
DOCKERFILE = (ROOT / "slurm" / "Dockerfile").read_text()


def as_the_api_reads(document: Object) -> Object:
    """The document without what the API has no field for; raises where a field has another type."""
    read: Object = KINDS[document["kind"]].from_dict(document).to_dict()
    return read


def variables(pod: int = 0, address: str = "cifar10-resnet18-node-0-0.cifar10-resnet18", port: int = 29500) -> Object:
    """What the runtime's torch policy sets in a pod, and what the pod has of its own."""
    own = {each["name"]: each["value"] for each in CONTAINER["env"]}
    return own | {
        "PET_NNODES": str(TRAINER["numNodes"]),
        "PET_NPROC_PER_NODE": str(TRAINER["numProcPerNode"]),
        "PET_NODE_RANK": str(pod),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": str(port),
    }


def maps(value: Any) -> Iterator[Object]:
    """Every mapping in a document, itself included."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from maps(each)


class TestManifest:
    @pytest.mark.parametrize("document", [CLAIM, RUNTIME, JOB], ids=lambda document: document["kind"])
    def test_is_what_the_api_takes(self, document: Object) -> None:
        assert as_the_api_reads(document) == document

    @pytest.mark.parametrize("document", [CLAIM, RUNTIME, JOB], ids=lambda document: document["kind"])
    def test_a_field_that_the_api_does_not_have_is_seen(self, document: Object) -> None:
        """At every place where the API says what fields there are."""
        wrong = copy.deepcopy(document)
        free = [each.get(name) for each in maps(wrong) for name in ("labels", "requests", "limits")]
        for place in maps(wrong):
            if not any(place is each for each in free):
                place["restart_policy"] = "Never"
                assert as_the_api_reads(wrong) != wrong, place
                del place["restart_policy"]

    def test_its_parts_find_each_other(self) -> None:
        reference = JOB["spec"]["runtimeRef"]
        assert (reference["kind"], reference["name"]) == (RUNTIME["kind"], RUNTIME["metadata"]["name"])
        assert RUNTIME["apiVersion"] == JOB["apiVersion"] == f"{reference['apiGroup']}/v1alpha1"
        assert NODE["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
        assert (NODE["name"], CONTAINER["name"]) == ("node", "node")  # by which the torch policy knows them
        volumes = {volume["name"]: volume for volume in PODS["volumes"]}
        assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]

    def test_a_lost_pod_restarts_all_and_a_stopped_one_has_time_to_save(self) -> None:
        assert (NODE["template"]["spec"]["backoffLimit"], PODS["restartPolicy"]) == (0, "Never")
        assert RUNTIME["spec"]["template"]["spec"]["failurePolicy"]["maxRestarts"] > 0
        assert int(variables()["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) + 10 < PODS["terminationGracePeriodSeconds"]

    def test_the_command_is_one_of_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables(pod=1).items():
            monkeypatch.setenv(name, value)
        assert TRAINER["command"] == ["torchrun"]
        parsed = get_args_parser().parse_args(TRAINER["args"])
        assert (parsed.module, parsed.training_script, parsed.rdzv_backend) == (True, "dist_train", "static")
        assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank, parsed.master_port) == ("2", "4", 1, 29500)
        assert parsed.max_restarts == 0  # without the other pods it would be in vain

    def test_its_settings_are_good_for_its_ranks(self) -> None:
        _, _, config, *overrides = TRAINER["args"]
        settings = load_config(ROOT / config, overrides)
        check_ranks(settings, TRAINER["numNodes"] * TRAINER["numProcPerNode"])
        assert Path(settings.run.dir).parent == Path("/shared/runs")
        assert "/shared" in [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
        assert int(TRAINER["resourcesPerNode"]["limits"]["nvidia.com/gpu"]) == TRAINER["numProcPerNode"]

    @pytest.mark.slow
    def test_its_command_trains_in_two_pods(self, tmp_path: Path, python: Python) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        module, name, *_ = TRAINER["args"]
        settings = [
            "configs/digits.yaml",
            "train.max_steps=2",
            "distributed.backend=gloo",
            f"run.dir={tmp_path / 'run'}",
        ]
        command = ["-m", "torch.distributed.run", module, name, *settings]

        def pod(number: int) -> "subprocess.CompletedProcess[str]":
            return python(*command, env=variables(number, "127.0.0.1", port) | {"PET_NPROC_PER_NODE": "1"})

        with ThreadPoolExecutor(2) as pods:
            done = list(pods.map(pod, range(2)))
        assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
        assert "2 rank" in (tmp_path / "run" / "logs" / "rank_0.log").read_text()


class TestImage:
    def test_hadolint_finds_nothing(self) -> None:
        command = [str(Path(sys.executable).with_name("hadolint")), "--no-color", str(ROOT / "slurm" / "Dockerfile")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def test_what_it_copies_is_there_and_not_ignored(self) -> None:
        kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        copied = [name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
        for name in copied:
            assert (ROOT / name).exists(), name
        assert sorted(kept) == sorted(copied)

    def test_it_has_what_is_installed(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
        for name in (*packages, project["project"]["readme"]):
            assert re.search(rf"^COPY .*\b{name}\b", DOCKERFILE, re.MULTILINE), name

    def test_its_user_is_that_of_the_pods(self) -> None:
        assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == [str(PODS["securityContext"]["runAsUser"])]
