{{- define "platform.labels" -}}
app.kubernetes.io/name: saccade-platform
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* A value as text: numbers of YAML are floats, and 1000000 must not become 1e+06. */}}
{{- define "platform.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Keys of a ConfigMap of Knative, all of them text. */}}
{{- define "platform.keys" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ include "platform.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* Values that would not work, each with what was given, what is expected, and why. Types and names are the schema's. */}}
{{- define "platform.refusals" -}}
{{- if ne .Release.Namespace "knative-serving" -}}
{{- fail (printf "\n\nThe release's namespace is %s; expected knative-serving (helm install -n knative-serving --create-namespace): KServe reads Knative's settings there, and helm/saccade's policies let that namespace in.\n" .Release.Namespace) -}}
{{- end -}}
{{- with .Values.knative -}}
{{- if not (regexMatch "^1\\.21\\.[0-9]+$" .version) -}}
{{- fail (printf "\n\nknative.version is %s; expected 1.21.x, for instance 1.21.3: KServe 0.20 is tested with 1.21, and the keys of knative.config are those of 1.21.\n" .version) -}}
{{- end -}}
{{- $type := .kourier.serviceType -}}
{{- if and .kourier.loadBalancerIP (ne $type "LoadBalancer") -}}
{{- fail (printf "\n\nknative.kourier.loadBalancerIP is %s and serviceType %s; expected serviceType=LoadBalancer: Knative's operator refuses an address for another type.\n" .kourier.loadBalancerIP $type) -}}
{{- end -}}
{{- if and (or .kourier.httpNodePort .kourier.httpsNodePort) (ne $type "NodePort") -}}
{{- fail (printf "\n\nknative.kourier.httpNodePort is %v, httpsNodePort %v and serviceType %s; expected serviceType=NodePort: Knative's operator refuses ports for another type.\n" .kourier.httpNodePort .kourier.httpsNodePort $type) -}}
{{- end -}}
{{- $most := index .config.defaults "max-revision-timeout-seconds" -}}
{{- if and $most (lt (int $most) 120) -}}
{{- fail (printf "\n\nknative.config.defaults.max-revision-timeout-seconds is %v; expected at least 120: a transformer of helm/saccade is given that time, and Knative would refuse it.\n" $most) -}}
{{- end -}}
{{- end -}}
{{- end -}}
