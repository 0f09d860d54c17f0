{{/* What Kubernetes, Knative or KServe would refuse, or leave out without a word, once the release is there. As in _refusals.tpl. */}}

{{/* Takes (list $ "predictor"). */}}
{{- define "saccade.componentRefusals" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $component := index $root.Values $part -}}
{{- include "saccade.imageRefusals" (list (printf "%s.image" $part) $component.image) -}}
{{- include "saccade.resourceRefusals" (list (printf "%s.resources" $part) $component.resources) -}}
{{- if gt (int $component.timeoutSeconds) 600 -}}
{{- fail (printf "\n\n%s.timeoutSeconds is %v; expected at most 600: Knative refuses more (max-revision-timeout-seconds in its config-defaults).\n" $part $component.timeoutSeconds) -}}
{{- end -}}
{{- if gt (int $component.concurrency.hard) 1000 -}}
{{- fail (printf "\n\n%s.concurrency.hard is %v; expected at most 1000, or 0 for no limit: Knative refuses more (container-concurrency-max-limit in its config-defaults).\n" $part $component.concurrency.hard) -}}
{{- end -}}
{{- with $component.queueProxy -}}
{{- if gt (float64 (include "saccade.amount" .memoryRequest)) (float64 (include "saccade.amount" .memoryLimit)) -}}
{{- fail (printf "\n\n%s.queueProxy.memoryRequest is %s and memoryLimit %s; expected at most as much: Kubernetes refuses pods whose request is above their limit.\n" $part .memoryRequest .memoryLimit) -}}
{{- end -}}
{{- end -}}
{{- include "saccade.envRefusals" . -}}
{{- include "saccade.annotationRefusals" . -}}
{{- end -}}

{{/* Takes (list "predictor.image" image). */}}
{{- define "saccade.imageRefusals" -}}
{{- $repository := (index . 1).repository -}}
{{- if regexMatch "@|:[^/]*$" $repository -}}
{{- fail (printf "\n\n%s.repository is %s; expected it without a tag and without a digest, which go behind it: %s.tag, %s.digest.\n" (index . 0) $repository (index . 0) (index . 0)) -}}
{{- end -}}
{{- end -}}

{{/* Takes (list "predictor.resources" resources). */}}
{{- define "saccade.resourceRefusals" -}}
{{- $limits := default dict (index . 1).limits -}}
{{- $path := index . 0 -}}
{{- range $kind := list "requests" "limits" -}}
{{- range $what := keys (default dict (get (index $ 1) $kind)) | sortAlpha -}}
{{- if hasPrefix "nvidia.com/" $what -}}
{{- fail (printf "\n\n%s.%s has %s; expected predictor.gpu.count and predictor.gpu.sharing, which also say where the pods go and what a rollout needs (transformers use no GPU).\n" $path $kind $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $what, $request := default dict (index . 1).requests -}}
{{- if hasKey $limits $what -}}
{{- $limit := get $limits $what -}}
{{- if gt (float64 (include "saccade.amount" $request)) (float64 (include "saccade.amount" $limit)) -}}
{{- fail (printf "\n\n%s.requests.%s is %s and limits.%s %s; expected at most as much: Kubernetes refuses pods whose request is above their limit.\n" $path $what (include "saccade.text" $request) $what (include "saccade.text" $limit)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A quantity of Kubernetes as a number: 250m is 0.25, 1Ki is 1024. */}}
{{- define "saccade.amount" -}}
{{- $text := include "saccade.text" . -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf $number (get $units (trimPrefix $number $text)) -}}
{{- end -}}

{{/* Takes (list $ "predictor"). */}}
{{- define "saccade.envRefusals" -}}
{{- $part := index . 1 -}}
{{- range (index (index . 0).Values $part).env -}}
{{- if has .name (list "PORT" "K_SERVICE" "K_CONFIGURATION" "K_REVISION") -}}
{{- fail (printf "\n\n%s.env has %s; expected another name: Knative sets it, and refuses whoever else does.\n" $part .name) -}}
{{- end -}}
{{- if and (hasKey . "value") (has .name (list "SACCADE_TRANSFORMER_CACHE_REDIS_URL" "SACCADE_TRANSFORMER_CACHE_REDIS_SECRET" "SACCADE_PREDICTOR_MODEL_CONTROL_KEY")) -}}
{{- fail (printf "\n\n%s.env has %s with a value; expected it from a Secret (valueFrom.secretKeyRef; redis.existingSecret for Redis): whoever may read the InferenceService reads its spec.\n" $part .name) -}}
{{- end -}}
{{- if and (hasKey . "value") .valueFrom -}}
{{- fail (printf "\n\n%s.env has %s with value and valueFrom; expected one of them: Kubernetes refuses both.\n" $part .name) -}}
{{- end -}}
{{- range $source := keys (default dict .valueFrom) | sortAlpha -}}
{{- if not (has $source (list "secretKeyRef" "configMapKeyRef")) -}}
{{- fail (printf "\n\n%s.env has a valueFrom with %s; expected secretKeyRef or configMapKeyRef: Knative refuses others without its feature kubernetes.podspec-fieldref, which helm/platform does not switch on.\n" $part $source) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is set twice, once nothing else is wrong. Takes (list $ "predictor"). */}}
{{- define "saccade.duplicateRefusals" -}}
{{- $part := index . 1 -}}
{{- $seen := dict -}}
{{- range (first (include (printf "saccade.%s" $part) (index . 0) | fromYaml).containers).env -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "\n\n%s.env has %s, which is there already; expected each name once: the chart sets it from a value of its own, or the list has it twice.\n" $part .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end -}}

{{/* Takes (list $ "predictor"). */}}
{{- define "saccade.annotationRefusals" -}}
{{- $part := index . 1 -}}
{{- $own := merge (include "saccade.ownAnnotations" . | fromYaml) (include "saccade.serviceAnnotations" (index . 0) | fromYaml) -}}
{{- $fields := dict "min-scale" "minReplicas" "minScale" "minReplicas" "max-scale" "maxReplicas" "maxScale" "maxReplicas" "target" "concurrency.target" "metric" "concurrency.target" -}}
{{- range $name := keys (index (index . 0).Values $part).annotations | sortAlpha -}}
{{- with get $fields (trimPrefix "autoscaling.knative.dev/" $name) -}}
{{- if hasPrefix "autoscaling.knative.dev/" $name -}}
{{- fail (printf "\n\n%s.annotations has %s; expected %s.%s: KServe sets the annotation from that, and drops another.\n" $part $name $part .) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $own $name -}}
{{- fail (printf "\n\n%s.annotations has %s, which the chart sets; expected the value that it comes from: %s.autoscaling or %s.queueProxy, or canary.split.\n" $part $name $part $part) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Names, of the service and of its account. */}}
{{- define "saccade.nameRefusals" -}}
{{- $name := include "saccade.name" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "\n\nThe InferenceService's name, from the release's, is %s; expected small letters, digits and dashes, with a letter first: KServe refuses others. Set fullnameOverride.\n" $name) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "\n\nserviceAccount.create is false and serviceAccount.name empty; expected the name of one that is there, for example default: pods of an account that nobody makes are refused.\n" -}}
{{- end -}}
{{- end -}}
