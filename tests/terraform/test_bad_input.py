"""What would not work is refused before anything is made, with a sentence that says what to write instead."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest

from terraform_support import Configuration, copy_sources

AWS: dict[str, Any] = {
    "cloud": "aws",
    "name": "vision",
    "region": "eu-central-1",
    "zones": ["eu-central-1a", "eu-central-1b", "eu-central-1c"],
    "pools": {"gpu": {"machine_type": "g5.xlarge"}},
}
GCP: dict[str, Any] = {
    "cloud": "gcp",
    "name": "vision",
    "region": "europe-west4",
    "zones": ["europe-west4-a", "europe-west4-b"],
    "pools": {"gpu": {"machine_type": "g2-standard-8"}},
}


def one_pool(**pool: Any) -> dict[str, Any]:
    """A request of one pool."""
    return {"pools": {"gpu": {"machine_type": "g5.xlarge"} | pool}}


#: By name: what is changed of a request that is good, and what the refusal says.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "ranges that overlap": (
        AWS,
        {"network": {"cidr": "10.20.0.0/16", "reserved_cidrs": ["192.168.0.0/16", "10.20.128.0/20"]}},
        ["cidr 10.20.0.0/16 overlaps reserved_cidrs[1] 10.20.128.0/20", "Write ranges that do not overlap"],
    ),
    "pods' range within a peer's": (
        GCP,
        {"network": {"pod_cidr": "10.128.0.0/14", "reserved_cidrs": ["10.0.0.0/8"]}},
        ["pod_cidr 10.128.0.0/14 overlaps reserved_cidrs[0] 10.0.0.0/8"],
    ),
    "a network that is too small": (AWS, {"network": {"cidr": "10.20.0.0/24"}}, ["10.20.0.0/24", "/16 to /20"]),
    "no range at all": (AWS, {"network": {"service_cidr": "fd00::/108"}}, ["fd00::/108", "write IPv4 ranges"]),
    "an address in the place of the network's range": (
        AWS,
        {"network": {"cidr": "10.0.0.1/16"}},
        ["network: 10.0.0.1/16 is an address within a range: write 10.0.0.0/16."],
    ),
    "an address in the place of the services' range": (
        GCP,
        {"network": {"service_cidr": "172.20.3.0/20", "reserved_cidrs": ["192.168.1.0/16", "192.168.0.0/24"]}},
        ["172.20.3.0/20 is an address within a range: write 172.20.0.0/20, 192.168.1.0/16 is"],
    ),
    "pods' range where pods have the network's": (
        AWS,
        {"network": {"pod_cidr": "10.128.0.0/14"}},
        ["network.pod_cidr is 10.128.0.0/14: leave it out on aws"],
    ),
    "a machine type that is unknown": (
        AWS,
        one_pool(machine_type="g5.tiny"),
        ['pools.gpu.machine_type is "g5.tiny"', "write one of", "g5.xlarge", "additional_machine_types"],
    ),
    "the other cloud's machine type": (
        GCP,
        one_pool(machine_type="g5.xlarge"),
        ["which the catalog does not have on gcp: write one of", "g2-standard-8"],
    ),
    "a machine type that the region does not offer": (
        AWS,
        one_pool(machine_type="p4d.24xlarge") | {"offered_zones": {"g5.xlarge": ["eu-central-1a"]}},
        ['"p4d.24xlarge", which eu-central-1 does not offer in', "a type that is offered: g5.xlarge."],
    ),
    "MIG on an A10G": (
        AWS,
        one_pool(sharing="mig:1g.5gb"),
        ["the A10G of g5.xlarge cannot be partitioned", "write time_slicing or mps", "p4d.24xlarge"],
    ),
    "a MIG profile of another GPU": (
        AWS,
        one_pool(machine_type="p4d.24xlarge", sharing="mig:1g.20gb"),
        ["which the A100-40GB does not have: write one of", "mig:3g.20gb"],
    ),
    "a MIG profile that GKE does not make": (
        GCP,
        one_pool(machine_type="a2-highgpu-1g", sharing="mig:4g.20gb"),
        [
            "which the A100-40GB does not have on GKE: write one of "
            "mig:1g.5gb, mig:2g.10gb, mig:3g.20gb, mig:7g.40gb.",
        ],
    ),
    "MPS on GKE": (
        GCP,
        one_pool(machine_type="g2-standard-8", sharing="mps", replicas_per_gpu=2),
        ["sharing is mps: write time_slicing or mig:PROFILE on gcp"],
    ),
    "a way of sharing that is none": (
        AWS,
        one_pool(sharing="halves"),
        ["write none, time_slicing, mps, or mig:PROFILE"],
    ),
    "time slices of one": (
        AWS,
        one_pool(sharing="time_slicing"),
        ["replicas_per_gpu is 1 with sharing time_slicing: write 2 to 48"],
    ),
    "slices of a GPU that is not shared": (
        AWS,
        one_pool(replicas_per_gpu=4),
        ["replicas_per_gpu is 4 with sharing none"],
    ),
    "two parts for a replica": (
        AWS,
        one_pool(machine_type="g5.4xlarge", sharing="mps", replicas_per_gpu=2) | {"replica": {"gpus": 2}},
        ["parts of GPUs do not add up"],
    ),
    "more GPUs for a replica than a machine has": (
        AWS,
        {"replica": {"gpus": 2}},
        ["replica.gpus is 2, but a node of pools.gpu (g5.xlarge) has 1"],
    ),
    "more replicas on a GPU than the machine has CPUs for": (
        AWS,
        one_pool(sharing="time_slicing", replicas_per_gpu=4),
        ["4 replicas fit onto the GPUs", "want 9.3 CPUs and 20 GiB", "it has 4 and 16", "write a smaller replica"],
    ),
    "spot with none at least and no fallback": (
        AWS,
        one_pool(capacity="spot", min_nodes=0),
        ["pools.gpu is spot with min_nodes = 0 and no fallback", 'write fallback = "POOL"', "or min_nodes = 1"],
    ),
    "a fallback of another GPU": (
        AWS,
        {
            "pools": {
                "spot": {"machine_type": "g5.xlarge", "capacity": "spot", "min_nodes": 0, "fallback": "other"},
                "other": {"machine_type": "g6.xlarge"},
            }
        },
        ['pools.spot.fallback is "other"', "another pool of the same GPU and sharing (a10g) that is not spot"],
    ),
    "a fallback of a pool that is not spot": (
        AWS,
        {"pools": {"a": {"machine_type": "g5.xlarge", "fallback": "b"}, "b": {"machine_type": "g5.xlarge"}}},
        ["but its capacity is on_demand: write it only where capacity is spot"],
    ),
    "a kind of capacity that is none": (AWS, one_pool(capacity="cheap"), ["write on_demand, spot or reservation"]),
    "a machine that Google has as spot alone": (
        GCP,
        one_pool(machine_type="a3-highgpu-2g"),
        ["capacity is on_demand, but gcp has a3-highgpu-2g as spot alone", "that it has so: a3-highgpu-8g."],
    ),
    "a reservation without its id": (
        AWS,
        one_pool(capacity="reservation"),
        ['write reservation = "cr-0123456789abcdef0"'],
    ),
    "a quota that is too small": (
        AWS,
        {"quotas": {"L-DB2E81BA": 8}, "sizing": {"max_replicas": 2, "redundancy": 2}},
        [
            'The quota "Running On-Demand G and VT instances" (L-DB2E81BA) in eu-central-1 is 8 vCPUs',
            "need 16 at their largest: ask for 16 (aws service-quotas request-service-quota-increase",
        ],
    ),
    "GPUs beyond Google's quota": (
        GCP,
        {"quotas": {"NVIDIA_L4_GPUS": 1}},
        ['The quota "NVIDIA_L4_GPUS" in europe-west4 is 1 GPUs, but the pools gpu need 4'],
    ),
    "a canary without room": (
        AWS,
        one_pool(max_nodes=2) | {"sizing": {"max_replicas": 2, "canary_percent": 10}},
        [
            "have room for 2 replicas at most, but 4 are needed: 2 at the peak, and 2 of a new revision beside them",
            "Write max_nodes = 4 in pools.gpu, leave it out, or write canary_percent = 0",
        ],
    ),
    "a rollout without room": (
        AWS,
        one_pool(max_nodes=3) | {"sizing": {"max_replicas": 2}},
        ["room for 3 replicas at most, but 4 are needed", 'or write rollout = "stop_then_start"'],
    ),
    "a canary that nothing stands beside": (
        AWS,
        {"sizing": {"max_replicas": 2, "rollout": "stop_then_start", "canary_percent": 5}},
        ['write rollout = "surge"', "or canary_percent = 0"],
    ),
    "fewer replicas than the peak needs": (
        AWS,
        {"sizing": {"target_rps": 1000, "rps_per_replica": 100, "max_replicas": 5}},
        ["sizing.max_replicas is 5: write at least 13"],
    ),
    "a rate without what a replica does": (
        AWS,
        {"sizing": {"target_rps": 1000}},
        ["one of target_rps and rps_per_replica"],
    ),
    "no size at all": (AWS, {"sizing": {}}, ["write target_rps and rps_per_replica, or max_replicas"]),
    "a public endpoint without an allow list": (
        AWS,
        {"endpoint": {"public": True}},
        ["endpoint.public is true without endpoint.allowed_cidrs", 'allowed_cidrs = ["203.0.113.7/32"]'],
    ),
    "a public endpoint for everybody": (
        AWS,
        {"endpoint": {"public": True, "allowed_cidrs": ["0.0.0.0/0"]}},
        ["0.0.0.0/0 would let everybody try"],
    ),
    "a name that is too long for AWS": (
        AWS,
        {"name": "vision-serving-production"},
        ["has 25 characters: write at most 24 on aws", "load balancer's name"],
    ),
    "a name that is too long for Google Cloud": (
        GCP,
        {"name": "vision-serving-production"},
        ["has 25 characters: write at most 20 on gcp", "service account"],
    ),
    "a name of capitals": (AWS, {"name": "Vision"}, ['name is "Vision": write lower-case letters']),
    "a pool's name that is too long": (
        AWS,
        {"pools": {"a10g-with-time-slices": {"machine_type": "g5.xlarge"}}},
        ['"a10g-with-time-slices" is no name of a pool: write at most 15'],
    ),
    "a pool's name that is taken": (
        AWS,
        {"pools": {"system": {"machine_type": "g5.xlarge"}}},
        ['pools has one named "system": write another name'],
    ),
    "a zone in the region's place": (
        AWS,
        {"region": "eu-central-1a"},
        ["write a region of aws, such as eu-central-1"],
    ),
    "zones of another region": (AWS, {"zones": ["eu-west-1a", "eu-west-1b"]}, ["outside of eu-central-1"]),
    "one zone": (AWS, {"zones": ["eu-central-1a"]}, ["write two to four different ones"]),
    "a pool outside of the zones": (
        AWS,
        one_pool(zones=["eu-central-1d"]),
        ["write some of eu-central-1a, eu-central-1b"],
    ),
    "a small disk": (AWS, one_pool(disk_gib=50), ["disk_gib is 50: write at least 200"]),
    "a part of a node": (AWS, one_pool(min_nodes=0.5), ["write whole numbers of nodes"]),
    "more nodes at least than at most": (
        AWS,
        one_pool(min_nodes=5, max_nodes=4),
        ["max_nodes is 4: write at least 1 and at least min_nodes (5)"],
    ),
    "two pools that could each be meant": (
        AWS,
        {"pools": {"a": {"machine_type": "g5.xlarge"}, "b": {"machine_type": "g6.xlarge"}}},
        ["serving_pool is left out, and a, b could each be meant"],
    ),
    "a pool that is not there": (AWS, {"serving_pool": "cpu"}, ['"cpu", which is no pool: write one of gpu']),
    "no pool": (AWS, {"pools": {}}, ['write at least one, such as pools = { gpu = { machine_type = "g5.xlarge" } }']),
    "a price table that is none": (
        AWS,
        {"prices_file": "versions.tf"},
        ['prices_file is "versions.tf": write the path of a JSON file', "per_hour"],
    ),
    "a tag that Google would refuse": (AWS, {"tags": {"Team": "Vision"}}, ["both clouds take those"]),
    "a machine type of a GPU that is unknown": (
        AWS,
        {
            "additional_machine_types": {
                "g9.xlarge": {
                    "cloud": "aws",
                    "gpu": "B9",
                    "gpus": 1,
                    "vcpus": 4,
                    "memory_gib": 16,
                    "quota_family": "g",
                }
            }
        },
        ['additional_machine_types["g9.xlarge"].gpu is "B9"', "write one of A100-40GB"],
    ),
}


#: What is not refused.
GOOD: dict[str, dict[str, Any]] = {"aws": AWS, "gcp": GCP}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The refusals of each request, by its name: all of them are planned at once.

    Each has a copy of the module and a file that calls it, and a refusal names the file that it is of. Values come by
    a variable, or the validation before a plan would end it with what it sees already.
    """
    requests = GOOD | {name: good | change for name, (good, change, _) in CASES.items()}
    root = copy_sources(tmp_path_factory.mktemp("requests")) / "tests" / "requests"
    modules = root.parents[1] / "modules"
    root.mkdir()
    (root / "main.tf").write_text('variable "requests" {\n  type = any\n}\n')
    for at, request in enumerate(requests.values()):
        shutil.copytree(modules / "contract" / "request", modules / "contract" / f"request{at}")
        given = "".join(f"  {name} = var.requests.r{at}.{name}\n" for name in request)
        call = f'module "r{at}" {{\n  source = "../../modules/contract/request{at}"\n{given}}}\n'
        (root / f"request{at}.tf").write_text(call)
    together = Configuration(root)
    together.init()
    together.set({"requests": {f"r{at}": request for at, request in enumerate(requests.values())}})
    found = together.refusals_by_file()
    of = {f"request{at}": name for at, name in enumerate(requests)}
    by_name: dict[str, list[str]] = {name: [] for name in requests}
    for file, sentences in found.items():
        for sentence in sentences:
            # Of a variable that was left out the sentence alone says where its rule is.
            part = re.findall(r"request[0-9]+", f"{file} {sentence}")[0]
            by_name[of[part]].append(sentence)
    return by_name


@pytest.mark.parametrize("good", GOOD)
def test_a_good_request_is_not_refused(refusals: dict[str, list[str]], good: str) -> None:
    assert refusals[good] == []


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_with_what_to_write_instead(refusals: dict[str, list[str]], case: str) -> None:
    _, _, said = CASES[case]
    for words in said:
        assert any(words in refusal for refusal in refusals[case]), refusals[case]
    assert len(refusals[case]) == 1, "what follows from a fault is not a fault of its own"
