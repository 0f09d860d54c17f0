"""The objects of a release, asked of a Kubernetes API server with what kubectl would ask with.

Only reads. Judges nothing (``rollout``).
"""

from __future__ import annotations

from typing import Any, Final

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException

from saccade_cli.passed_on import Object
from saccade_cli.rollout import COMPONENTS, Observed

#: Time of one call, to connect and to answer (seconds).
_CALL_S: Final = (5, 15)


class ClusterFailed(Exception):
    """The API server cannot be asked, or has not what was asked for; the text says which."""


class NotThere(ClusterFailed):
    """The API server answered that there is no such InferenceService."""


class Cluster:
    """A Kubernetes cluster.

    Args:
        context: of the kubeconfig; empty for its current one. Without a kubeconfig, the pod's own service account.

    Raises:
        ClusterFailed: there is neither, or no such context.
    """

    def __init__(self, context: str = "") -> None:
        self._api, self.namespace = _connect(context)
        # One connection's failure is told at once: the caller asks again.
        self._api.configuration.retries = 0

    def observe(self, name: str, namespace: str) -> Observed:
        """What there is of a release.

        Raises:
            NotThere: there is no such InferenceService.
            ClusterFailed: it cannot be asked for.
        """
        service = self._custom("serving.kserve.io", "v1beta1", "inferenceservices", name, namespace)
        if service is None:
            raise NotThere(f"there is no InferenceService {name} in the namespace {namespace}")
        knative = {}
        for component in COMPONENTS:
            found = self._custom("serving.knative.dev", "v1", "services", f"{name}-{component}", namespace)
            if found is not None:
                knative[component] = found
        return Observed(service, knative, self.rollout(name, namespace))

    def rollout(self, name: str, namespace: str) -> dict[str, str]:
        """What the chart recorded of its last release; empty where there is no such record.

        Raises:
            ClusterFailed: it cannot be asked for.
        """
        core = client.CoreV1Api(self._api)
        found = self._ask(core.read_namespaced_config_map, f"{name}-rollout", namespace)
        return dict(found.data or {}) if found is not None else {}

    def why_pods_wait(self, revision: str, namespace: str) -> str:
        """What keeps the pods of a revision from being ready, as far as they say; empty where they say nothing.

        Raises:
            ClusterFailed: they cannot be asked for.
        """
        core = client.CoreV1Api(self._api)
        selector = f"serving.knative.dev/revision={revision}"
        found = self._ask(core.list_namespaced_pod, namespace, label_selector=selector)
        for pod in found.items if found is not None else ():
            for condition in pod.status.conditions or ():
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f"{condition.reason}: {condition.message}"
            for one in pod.status.container_statuses or ():
                waiting = one.state.waiting if one.state else None
                if waiting is not None and waiting.reason != "ContainerCreating":
                    return ": ".join(filter(None, (f"container {one.name}", waiting.reason, waiting.message)))
        return ""

    def _custom(self, group: str, version: str, plural: str, name: str, namespace: str) -> Object | None:
        custom = client.CustomObjectsApi(self._api)
        found: Object | None = self._ask(custom.get_namespaced_custom_object, group, version, namespace, plural, name)
        return found

    def _ask(self, call: Any, *arguments: str, **options: str) -> Any:
        """What a call answers; None for 404."""
        try:
            return call(*arguments, **options, _request_timeout=_CALL_S)
        except ApiException as error:
            if error.status == 404:
                return None
            raise ClusterFailed(f"the API server answered {error.status} {error.reason}") from None
        except urllib3.exceptions.HTTPError as error:
            host = self._api.configuration.host
            raise ClusterFailed(f"the API server at {host} cannot be reached: {_reason(error)}") from None


def _connect(context: str) -> tuple[client.ApiClient, str]:
    """A client, and the namespace that is meant where none is said."""
    try:
        found = config.new_client_from_config(context=context or None)
        contexts, current = config.list_kube_config_contexts()
        every = {one["name"]: one for one in contexts}
        namespace = every.get(context, current)["context"].get("namespace", "default")
        return found, namespace
    except ConfigException as error:
        if context:
            raise ClusterFailed(f"the kubeconfig cannot be used: {error}") from None
    try:
        config.load_incluster_config()
    except ConfigException:
        raise ClusterFailed(
            "there is no cluster to ask: no kubeconfig (KUBECONFIG, or ~/.kube/config), and this is no pod"
        ) from None
    return client.ApiClient(), "default"


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    """The last part of an error of urllib3, which tells the whole way there."""
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2]
