{{/* Where the pods of a component run, and by which secrets their images are pulled. Takes (list $ "predictor"). Without a
GPU and values of its own nothing is said: Knative takes these fields only with its feature flags (helm/platform). */}}
{{- define "saccade.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index $root.Values (index . 1) -}}
{{- $selector := deepCopy $component.nodeSelector -}}
{{- $tolerations := $component.tolerations -}}
{{- with $component.gpu -}}
{{- if .product -}}
{{- $_ := set $selector "nvidia.com/gpu.product" .product -}}
{{- end -}}
{{- if gt (int .count) 0 -}}
{{- $tolerations = concat $tolerations (list (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule")) -}}
{{- end -}}
{{- end -}}
{{- with $selector -}}
nodeSelector: {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with $tolerations -}}
tolerations: {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with $component.priorityClassName -}}
priorityClassName: {{ . | quote }}
{{ end -}}
{{- include "saccade.pullSecrets" $root -}}
{{- end -}}

{{/* By which secrets images are pulled; nothing where there are none. */}}
{{- define "saccade.pullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{ end -}}
{{- end -}}

{{/* The predictor's resources with its GPUs, which requests and limits have to say alike. */}}
{{- define "saccade.predictorResources" -}}
{{- $resources := deepCopy .Values.predictor.resources -}}
{{- with .Values.predictor.gpu -}}
{{- if gt (int .count) 0 -}}
{{- $resource := include "saccade.gpuResource" . -}}
{{- $count := .count | toString -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $resources $kind (merge (dict $resource $count) (default dict (index $resources $kind))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* How the transformer finds Redis. A password never stands in the InferenceService: it comes from the Secret. */}}
{{- define "saccade.redisEnv" -}}
{{- if eq .Values.cache.mode "redis" -}}
- name: SACCADE_TRANSFORMER_CACHE_REDIS_NAMESPACE
  value: {{ printf "%s/%s" .Release.Namespace (include "saccade.name" .) | quote }}
- name: SACCADE_TRANSFORMER_CACHE_REDIS_URL
{{- if .Values.redis.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret | quote }}
      key: url
{{- if .Values.redis.sealKey }}
- name: SACCADE_TRANSFORMER_CACHE_REDIS_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.existingSecret | quote }}
      key: {{ .Values.redis.sealKey | quote }}
{{- end }}
{{- else }}
  value: redis://{{ include "saccade.redisName" . }}.{{ .Release.Namespace }}:6379/0
{{- end }}
{{- end -}}
{{- end -}}

{{/* Peers of a NetworkPolicy: the pods of namespaces, by name. */}}
{{- define "saccade.fromNamespaces" -}}
{{- range . }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
{{- end }}
{{- end -}}
