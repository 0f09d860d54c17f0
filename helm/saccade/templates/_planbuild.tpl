{{/* The Job that builds a plan: what its containers have in common, and where graph and plan lie. */}}

{{/* Where the model repository lies that the predictor serves, and that a plan is put into. */}}
{{- define "saccade.storageUri" -}}
{{- if .Values.planBuild.enabled -}}
{{- default .Values.model.storageUri .Values.planBuild.target -}}
{{- else -}}
{{- .Values.model.storageUri -}}
{{- end -}}
{{- end -}}

{{/* Scheme of a place. */}}
{{- define "saccade.scheme" -}}
{{- first (splitList "://" .) -}}
{{- end -}}

{{/* Folder of a place in a container: of pvc://CLAIM/PATH the claim is mounted; of a bucket a copy is made. Takes
(list $ "source"), or "repository" for the model repository. */}}
{{- define "saccade.planFolder" -}}
{{- $uri := ternary (index . 0).Values.planBuild.source (include "saccade.storageUri" (index . 0)) (eq (index . 1) "source") -}}
{{- if eq (include "saccade.scheme" $uri) "pvc" -}}
/{{ index . 1 }}/{{ rest (splitList "/" (trimPrefix "pvc://" $uri)) | join "/" | trimSuffix "/" }}
{{- else -}}
/work/{{ index . 1 }}
{{- end -}}
{{- end -}}

{{/* Claim of pvc://CLAIM/PATH. */}}
{{- define "saccade.claim" -}}
{{- first (splitList "/" (trimPrefix "pvc://" .)) -}}
{{- end -}}

{{/* The plan container's resources: its own and the predictor's GPUs. */}}
{{- define "saccade.planResources" -}}
{{- $predictor := dict "resources" .Values.planBuild.resources "gpu" .Values.predictor.gpu -}}
{{- include "saccade.predictorResources" (dict "Values" (dict "predictor" $predictor)) -}}
{{- end -}}

{{/* What is alike in its containers. Takes (list $ resources), the resources as YAML. */}}
{{- define "saccade.planContainer" -}}
{{- $root := index . 0 -}}
image: {{ include "saccade.image" (list $root "planBuild") }}
imagePullPolicy: {{ $root.Values.planBuild.image.pullPolicy }}
env:
  - {name: HOME, value: /work}
  - {name: TMPDIR, value: /work}
resources: {{- index . 1 | nindent 2 }}
securityContext: {{- include "saccade.securityContext" $root | nindent 2 }}
volumeMounts:
  - {name: work, mountPath: /work}
  {{- range $name := list "source" "repository" }}
  {{- $uri := ternary $root.Values.planBuild.source (include "saccade.storageUri" $root) (eq $name "source") }}
  {{- if eq (include "saccade.scheme" $uri) "pvc" }}
  - {name: {{ $name }}, mountPath: /{{ $name }}{{ if eq $name "source" }}, readOnly: true{{ end }}}
  {{- end }}
  {{- end }}
{{- end -}}

{{/* Where the predictor may run, but without its priority class: that may be the release's, which is not there yet when
hooks run, and what only prepares pushes nobody off a node. */}}
{{- define "saccade.placementBefore" -}}
{{- $values := deepCopy .Values -}}
{{- $_ := set $values.predictor "priorityClassName" "" -}}
{{- include "saccade.placement" (list (dict "Values" $values) "predictor") -}}
{{- end -}}

{{- define "saccade.planAccount" -}}
{{- default (printf "%s-plan" (include "saccade.name" .)) .Values.planBuild.serviceAccountName -}}
{{- end -}}

{{/* Arguments of saccade-build plan. --reuse: what is there, of the same graph and for this GPU, is not built again. */}}
{{- define "saccade.planArgs" -}}
{{- with .Values.planBuild -}}
{{- $source := include "saccade.planFolder" (list $ "source") -}}
- plan
- {{ printf "%s/%s" $source .graph | quote }}
- {{ printf "%s/%s" (include "saccade.planFolder" (list $ "repository") | trimSuffix "/") $.Values.model.name | quote }}
- --reuse
- --kind=trt
- --precision={{ .precision }}
- --batch={{ .batch }}
{{- with .labels }}
- {{ printf "--labels=%s/%s" $source . | quote }}
{{- end }}
{{- range .args }}
- {{ . | quote }}
{{- end }}
{{- end -}}
{{- end -}}
