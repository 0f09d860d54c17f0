{{/* Names and labels. What stands in the InferenceService's labels reaches its revisions: nothing there may change with
the chart's version, or an upgrade of the chart would be a new revision. */}}

{{- define "saccade.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "saccade.stableLabels" -}}
app.kubernetes.io/name: saccade
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "saccade.labels" -}}
{{ include "saccade.stableLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels that KServe gives to the pods of a component, of all its revisions. Takes (list $ "predictor"). */}}
{{- define "saccade.podLabels" -}}
serving.kserve.io/inferenceservice: {{ include "saccade.name" (index . 0) }}
component: {{ index . 1 }}
{{- end -}}

{{- define "saccade.serviceAccountName" -}}
{{- default (include "saccade.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "saccade.redisName" -}}
{{ include "saccade.name" . }}-redis
{{- end -}}

{{/* Takes (list $ "predictor"). */}}
{{- define "saccade.image" -}}
{{- $image := (index (index . 0).Values (index . 1)).image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (index . 0).Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}
