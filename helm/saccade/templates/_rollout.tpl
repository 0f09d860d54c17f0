{{/* The canary: what is stable, what is tried, who gets it, and which changes would mix revisions that do not belong together.

What a component's revisions are made of has a digest, PREDICTOR-TRANSFORMER, each of twelve hex digits and xN for N
minReplicas: 3f2a9c1e07bdx1-77ab01de9c42x2. The ConfigMap <name>-rollout records it, since annotations of the
InferenceService would be annotations of its revisions. KServe gives a canary's share to the newest revision that is
ready and the rest to the one that was last ready with all of the traffic. */}}

{{- define "saccade.rolloutName" -}}
{{ include "saccade.name" . }}-rollout
{{- end -}}

{{- define "saccade.camerasName" -}}
{{ include "saccade.name" . }}-cameras
{{- end -}}

{{/* Annotations of the InferenceService, which KServe hands on to the revisions of both components. */}}
{{- define "saccade.serviceAnnotations" -}}
serving.kserve.io/deploymentMode: Knative
{{- if eq .Values.canary.split "camera" }}
serving.kserve.io/enable-tag-routing: "true"
{{- end }}
{{- end -}}

{{/* Digest of a component. Takes (list $ "predictor"). */}}
{{- define "saccade.digestOf" -}}
{{- $root := index . 0 -}}
{{- $spec := include (printf "saccade.%s" (index . 1)) $root | fromYaml -}}
{{- /* What follows from minReplicas is told by xN. */ -}}
{{- $_ := unset $spec.annotations "autoscaling.knative.dev/initial-scale" -}}
{{- $whole := dict "labels" (include "saccade.stableLabels" $root) "annotations" (include "saccade.serviceAnnotations" $root) "spec" (omit $spec "minReplicas") -}}
{{- printf "%sx%v" (toJson $whole | sha256sum | trunc 12) (index $root.Values (index . 1)).minReplicas -}}
{{- end -}}

{{/* Digest of the release: predictor, transformer. */}}
{{- define "saccade.digest" -}}
{{- include "saccade.digestOf" (list . "predictor") }}-{{ include "saccade.digestOf" (list . "transformer") -}}
{{- end -}}

{{/* Of a component's spec, live or rendered, a digest of what KServe stores as it was given: it shows whether the one became the
other. (Resources and probes are filled up.) Takes the spec. */}}
{{- define "saccade.fingerprint" -}}
{{- $container := first .containers -}}
{{- $parts := list $container.image $container.args $container.env .annotations .minReplicas .maxReplicas .scaleTarget .timeout .containerConcurrency -}}
{{- toJson $parts | sha256sum | trunc 12 -}}
{{- end -}}

{{/* Fingerprints of what is rendered: predictor, transformer. */}}
{{- define "saccade.applied" -}}
{{- include "saccade.fingerprint" (include "saccade.predictor" . | fromYaml) }}-{{ include "saccade.fingerprint" (include "saccade.transformer" . | fromYaml) -}}
{{- end -}}

{{/* A component is being tried: not all of the traffic is its candidate's. */}}
{{- define "saccade.hasCanary" -}}
{{- if and .Values.canary.component (lt (int .Values.canary.percent) 100) -}}
true
{{- end -}}
{{- end -}}

{{/* Digest of what is stable: the release itself, or with a canary the one that it is tried beside. Empty where nobody says it. */}}
{{- define "saccade.stable" -}}
{{- if include "saccade.hasCanary" . -}}
{{- default (get (include "saccade.lastRollout" . | fromYaml) "stable") .Values.canary.of -}}
{{- else -}}
{{- include "saccade.digest" . -}}
{{- end -}}
{{- end -}}

{{/* KServe's field, where there is a canary of this component. With cameras the transformer alone gives the candidate requests. */}}
{{- define "saccade.canaryPercent" -}}
{{- $canary := (index . 0).Values.canary -}}
{{- if and (include "saccade.hasCanary" (index . 0)) (eq $canary.component (index . 1)) -}}
canaryTrafficPercent: {{ ternary 0 $canary.percent (eq $canary.split "camera") }}
{{- end -}}
{{- end -}}

{{/* What the last release recorded: the ConfigMap's data, as YAML; empty without a cluster and at the first installation. */}}
{{- define "saccade.liveRollout" -}}
{{- $found := lookup "v1" "ConfigMap" .Release.Namespace (include "saccade.rolloutName" .) -}}
{{- if $found -}}
{{- toYaml $found.data -}}
{{- end -}}
{{- end -}}

{{/* The same, if there is the InferenceService that it is about; a record that outlived it says nothing. */}}
{{- define "saccade.lastRollout" -}}
{{- if or (include "saccade.liveService" .) (not (include "saccade.seesCluster" .)) -}}
{{- include "saccade.liveRollout" . -}}
{{- end -}}
{{- end -}}

{{/* Helm sees the namespace, which exists: Kubernetes keeps this ConfigMap in each. */}}
{{- define "saccade.seesCluster" -}}
{{- if lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt" -}}
true
{{- end -}}
{{- end -}}

{{/* The live InferenceService as YAML; empty without a cluster, before KServe is there and at the first installation. */}}
{{- define "saccade.liveService" -}}
{{- if .Capabilities.APIVersions.Has "serving.kserve.io/v1beta1/InferenceService" -}}
{{- $found := lookup "serving.kserve.io/v1beta1" "InferenceService" .Release.Namespace (include "saccade.name" .) -}}
{{- if $found -}}
{{- toYaml $found -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Pods with which a revision begins: Knative starts one of it even if it may scale to zero. Takes a component's values. */}}
{{- define "saccade.firstPods" -}}
{{- max 1 .minReplicas -}}
{{- end -}}

{{/* GPUs that a new revision of the predictor holds beside the old one, until that is gone. */}}
{{- define "saccade.surgeGpus" -}}
{{- mul (include "saccade.firstPods" .Values.predictor) .Values.predictor.gpu.count -}}
{{- end -}}

{{/* The predictor is as it was, so that no revision of it is made: as the last release or canary.of says; empty where nobody knows. */}}
{{- define "saccade.samePredictor" -}}
{{- $before := default .Values.canary.of (get (include "saccade.lastRollout" . | fromYaml) "digest") -}}
{{- if and $before (eq (first (splitList "-" $before)) (include "saccade.digestOf" (list . "predictor"))) -}}
true
{{- end -}}
{{- end -}}
