#!/bin/sh
# Written from install.yaml by `make chart`. Run in helm/platform, or paste step by step; needs helm and kubectl.
# PLATFORM_VALUES names a file of values for this chart: the domain, the load balancer's annotations.
set -eu

# prometheus: Prometheus' operator and Grafana, for the monitors, rules and dashboards of both charts. Optional.
helm upgrade --install prometheus kube-prometheus-stack \
  --repo https://prometheus-community.github.io/helm-charts \
  --version 83.4.0 \
  --namespace monitoring \
  --create-namespace \
  --values values/prometheus.yaml \
  --wait

# cert-manager: certificates of KServe's webhooks.
helm upgrade --install cert-manager cert-manager \
  --repo https://charts.jetstack.io \
  --version v1.21.1 \
  --namespace cert-manager \
  --create-namespace \
  --values values/cert-manager.yaml \
  --wait

# knative-operator: it installs Knative Serving from the chart after it; 1.21.4 is the first to hold Serving 1.21.3.
helm upgrade --install knative-operator knative-operator \
  --repo https://knative.github.io/operator \
  --version v1.21.4 \
  --namespace knative-operator \
  --create-namespace \
  --wait
kubectl -n knative-operator rollout status deployment/knative-operator --timeout=300s
kubectl -n knative-operator rollout status deployment/operator-webhook --timeout=300s

# platform: Knative Serving 1.21.3 and Kourier, with what GPU services need.
helm upgrade --install platform . \
  --namespace knative-serving \
  --create-namespace \
  ${PLATFORM_VALUES:+--values "$PLATFORM_VALUES"}
kubectl -n knative-serving wait knativeserving/knative-serving --for=condition=Ready --timeout=600s

# kserve-crd: the kinds of KServe.
helm upgrade --install kserve-crd oci://ghcr.io/kserve/charts/kserve-crd \
  --version v0.20.0 \
  --namespace kserve \
  --create-namespace \
  --wait

# kserve-resources: KServe's controller.
helm upgrade --install kserve-resources oci://ghcr.io/kserve/charts/kserve-resources \
  --version v0.20.0 \
  --namespace kserve \
  --create-namespace \
  --values values/kserve-resources.yaml \
  --wait
kubectl -n kserve rollout status deployment/kserve-controller-manager --timeout=300s

# kserve-runtime-configs: settings of KServe's own model servers, none of which is enabled by default; Saccade brings its own. Optional.
helm upgrade --install kserve-runtime-configs oci://ghcr.io/kserve/charts/kserve-runtime-configs \
  --version v0.20.0 \
  --namespace kserve \
  --create-namespace \
  --wait

# nvidia-device-plugin: GPUs as a resource of nodes; not on GKE, which has its own, and not beside NVIDIA's GPU operator.
helm upgrade --install nvidia-device-plugin nvidia-device-plugin \
  --repo https://nvidia.github.io/k8s-device-plugin \
  --version 0.20.0 \
  --namespace nvidia \
  --create-namespace \
  --values values/device-plugin.yaml \
  --wait

# dcgm-exporter: metrics of GPUs, for the dashboard and the alert on faults. Optional.
helm upgrade --install dcgm-exporter dcgm-exporter \
  --repo https://nvidia.github.io/dcgm-exporter/helm-charts \
  --version 4.8.2 \
  --namespace nvidia \
  --create-namespace \
  --values values/dcgm-exporter.yaml \
  --wait
