{{/* Values that would not work, of what is beside the service: dashboards, alerts, plans, nodes. As in _refusals.tpl. */}}
{{- define "saccade.dashboardRefusals" -}}
{{- if not .Values.monitoring.podMonitor.enabled -}}
{{- fail "\n\nmonitoring.dashboards.enabled is true and monitoring.podMonitor.enabled false; expected both: the dashboards read what it collects, by labels that it gives.\n" -}}
{{- end -}}
{{- end -}}

{{- define "saccade.ruleRefusals" -}}
{{- if lt (float64 .Values.slo.availability) 0.94 -}}
{{- fail (printf "\n\nslo.availability is %v; expected at least 0.94: the page for a budget that goes 14.4 times too fast would need more faults than there are requests.\n" .Values.slo.availability) -}}
{{- end -}}
{{- end -}}

{{- define "saccade.priorityRefusals" -}}
{{- $name := .Values.priorityClass.name -}}
{{- if not $name -}}
{{- fail "\n\npriorityClass.create is true and priorityClass.name empty; expected a name, by which predictor.priorityClassName uses it.\n" -}}
{{- end -}}
{{- if hasPrefix "system-" $name -}}
{{- fail (printf "\n\npriorityClass.name is %s; expected another beginning: system- is Kubernetes' own, which refuses it.\n" $name) -}}
{{- end -}}
{{- if not (has $name (list .Values.predictor.priorityClassName .Values.transformer.priorityClassName)) -}}
{{- fail (printf "\n\npriorityClass.name is %s, but predictor.priorityClassName is %q and transformer.priorityClassName %q; expected one of them to name it: nothing else uses it.\n" $name .Values.predictor.priorityClassName .Values.transformer.priorityClassName) -}}
{{- end -}}
{{- end -}}

{{- define "saccade.pullRefusals" -}}
{{- with .Values.predictor -}}
{{- if and (gt (int .gpu.count) 0) (not .gpu.product) (not .nodeSelector) -}}
{{- fail "\n\nprePull.enabled is true, but predictor.gpu.product and predictor.nodeSelector are empty; expected one of them: the image, gigabytes of it, would be pulled to nodes without GPUs, too.\n" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "saccade.planRefusals" -}}
{{- $target := include "saccade.storageUri" . -}}
{{- with .Values.planBuild -}}
{{- $where := ternary "planBuild.target" "model.storageUri" (ne .target "") -}}
{{- if not .image.repository -}}
{{- fail (printf "\n\nplanBuild.image.repository is empty. Build and push the image, then say where it is:\n  docker build --target plan-builder -t REGISTRY/saccade-plan-builder:%s . && docker push REGISTRY/saccade-plan-builder:%s\n  --set planBuild.image.repository=REGISTRY/saccade-plan-builder\n" $.Chart.AppVersion $.Chart.AppVersion) -}}
{{- end -}}
{{- if or (not .source) (not .graph) -}}
{{- fail (printf "\n\nplanBuild.source is %q and planBuild.graph %q; expected both: where the graph is published, and the ONNX file in it, for example source=s3://BUCKET/GRAPHS and graph=detector/1/model.onnx.\n" .source .graph) -}}
{{- end -}}
{{- if not (has (include "saccade.scheme" $target) (list "s3" "gs" "pvc")) -}}
{{- fail (printf "\n\nplanBuild.enabled is true and %s %q; expected s3://, gs:// or pvc://: a plan is written there.\n" $where $target) -}}
{{- end -}}
{{- if eq (trimSuffix "/" .source) (trimSuffix "/" $target) -}}
{{- fail (printf "\n\nplanBuild.source and %s are both %s; expected two places: the graph's config.pbtxt is not the plan's.\n" $where $target) -}}
{{- end -}}
{{- if and .serviceAccountCreate (not .serviceAccountName) -}}
{{- fail "\n\nplanBuild.serviceAccountCreate is true and planBuild.serviceAccountName empty; expected a name, or no serviceAccountCreate: without a name the Job's account is made anyway.\n" -}}
{{- end -}}
{{- if and .serviceAccountCreate (eq .serviceAccountName (include "saccade.serviceAccountName" $)) -}}
{{- fail (printf "\n\nplanBuild.serviceAccountName is %s, which is the service's own account; expected another one with serviceAccountCreate: the Job's account is taken away when the Job has ended, and what answers requests need not write plans.\n" .serviceAccountName) -}}
{{- end -}}
{{- if eq (int $.Values.predictor.gpu.count) 0 -}}
{{- fail "\n\nplanBuild.enabled is true and predictor.gpu.count 0; expected at least 1: a plan is built on a GPU as the predictor's, and runs on one alone.\n" -}}
{{- end -}}
{{- range .args -}}
{{- if regexMatch "^--(kind|precision|batch|labels|reuse|replace|version)(=|$)" . -}}
{{- fail (printf "\n\nplanBuild.args has %s; expected options that are not set by the chart: precision, batch and labels have values of their own, and the version follows from what is there.\n" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
