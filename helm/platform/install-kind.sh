#!/bin/sh
# Written from install.yaml by `make chart`. Run in helm/platform, or paste step by step; needs helm and kubectl.
# PLATFORM_VALUES names a file of values for this chart: the domain, the load balancer's annotations.
set -eu

# A cluster of one node.
kind create cluster --name saccade --image kindest/node:v1.34.0
kubectl config use-context kind-saccade

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
  --values values/kind.yaml \
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
