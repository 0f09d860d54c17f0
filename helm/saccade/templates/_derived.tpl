{{/* What follows from the values, each in one place. */}}

{{/* The one port that Knative serves of a component. Takes the protocol: gRPC's port has to be named h2c. */}}
{{- define "saccade.port" -}}
{{- if eq . "grpc-v2" -}}
name: h2c
containerPort: 8081
{{- else -}}
name: http1
containerPort: 8080
{{- end }}
protocol: TCP
{{- end -}}

{{/* Name of the resource that a GPU is asked by. */}}
{{- define "saccade.gpuResource" -}}
{{- if eq .sharing "mig" -}}
nvidia.com/mig-{{ .migProfile }}
{{- else if eq .sharing "none" -}}
nvidia.com/gpu
{{- else -}}
nvidia.com/gpu.shared
{{- end -}}
{{- end -}}

{{/* Concurrency that the autoscaler aims at: that of a replica at 70 % of its capacity. By Little's law 1.5 n requests are
inside where n is the batch that the load fills (docs/slo.md); without a profile n is taken for 0.7 of the largest. */}}
{{- define "saccade.predictorTarget" -}}
{{- with .Values.predictor -}}
{{- if kindIs "invalid" .concurrency.target -}}
{{- max 1 (ceil (mulf 1.5 0.7 .batching.rows .batching.instances)) -}}
{{- else -}}
{{- .concurrency.target -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The least hard limit that does not starve the batcher: (depth + 1) x rows x instances x 1.25 (docs/slo.md). */}}
{{- define "saccade.leastHard" -}}
{{- with .Values.predictor.batching -}}
{{- ceil (mulf (add .depth 1) .rows .instances 1.25) -}}
{{- end -}}
{{- end -}}

{{/* A setting's environment variables: takes (list prefix settings), in the order of their names. */}}
{{- define "saccade.settings" -}}
{{- $prefix := index . 0 -}}
{{- range $name, $value := index . 1 }}
- name: {{ $prefix }}{{ $name | snakecase | upper }}
  value: {{ include "saccade.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* A value as text: numbers of YAML are floats, and 1000000 must not become 1e+06. */}}
{{- define "saccade.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Annotations that the chart gives to a component's revisions. Takes (list $ "predictor"). */}}
{{- define "saccade.ownAnnotations" -}}
{{- $component := index (index . 0).Values (index . 1) -}}
{{- with $component.autoscaling -}}
autoscaling.knative.dev/initial-scale: {{ include "saccade.firstPods" $component | quote }}
autoscaling.knative.dev/scale-down-delay: {{ printf "%vs" .scaleDownDelaySeconds | quote }}
autoscaling.knative.dev/target-burst-capacity: {{ .targetBurstCapacity | quote }}
autoscaling.knative.dev/target-utilization-percentage: "100"
autoscaling.knative.dev/window: {{ printf "%vs" .windowSeconds | quote }}
serving.knative.dev/progress-deadline: {{ printf "%vs" .progressDeadlineSeconds | quote }}
{{- end }}
{{- with $component.queueProxy }}
queue.sidecar.serving.knative.dev/cpu-resource-request: {{ .cpuRequest | quote }}
queue.sidecar.serving.knative.dev/memory-resource-request: {{ .memoryRequest | quote }}
queue.sidecar.serving.knative.dev/memory-resource-limit: {{ .memoryLimit | quote }}
{{- end }}
{{- end -}}

{{/* All annotations of a component's revisions. Takes (list $ "predictor"). */}}
{{- define "saccade.componentAnnotations" -}}
{{- include "saccade.ownAnnotations" . }}
{{- range $name, $value := (index (index . 0).Values (index . 1)).annotations }}
{{ $name | quote }}: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Probes: ready means that an inference has gone all the way through. A start may take as long as the revision may. */}}
{{- define "saccade.probes" -}}
{{- $component := index (index . 0).Values (index . 1) -}}
{{- $ready := dict "path" (printf "/v2/models/%s/ready" (index . 0).Values.model.name) "port" 8080 -}}
startupProbe:
  httpGet: {{ toYaml $ready | nindent 4 }}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: {{ ceil (divf $component.autoscaling.progressDeadlineSeconds 5) }}
readinessProbe:
  httpGet: {{ toYaml $ready | nindent 4 }}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet:
    path: /v2/health/live
    port: 8080
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- end -}}

{{- define "saccade.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 1000
seccompProfile:
  type: RuntimeDefault
{{- end -}}
