{{/* Names, labels, what both kinds of pods have in common, and the refusals. */}}

{{- define "loadtest.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "loadtest.selector" -}}
app.kubernetes.io/name: saccade-loadtest
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "loadtest.labels" -}}
{{ include "loadtest.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "loadtest.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "loadtest.claim" -}}
{{- default (printf "%s-results" (include "loadtest.name" .)) .Values.results.existingClaim -}}
{{- end -}}

{{/* What Locust is told in the master and in the workers alike: workers make their generators of it. */}}
{{- define "loadtest.arguments" -}}
{{- with .Values -}}
- --host={{ .target.url }}
- --headless
- --model={{ .target.model }}
- --grpc-address={{ .target.grpc }}
- --cache={{ .target.cache }}
- --fps={{ .load.fps }}
- --static={{ .load.static }}
- --warmup={{ int .load.warmupS }}
- --patience={{ .load.patienceS }}
- --loop={{ .load.loop }}
- --size={{ .load.size }}
- --pictures=/opt/loadtest/images
- --expect-workers={{ int .workers.replicas }}
{{- if .load.trace }}
- --trace=/etc/loadtest/trace.csv
{{- end }}
{{- with .target.headers }}
{{- $lines := list }}
{{- range $name, $value := . }}
{{- $lines = append $lines (printf "%s: %s" $name $value) }}
{{- end }}
- {{ printf "--header=%s" (join "\n" $lines) | toJson }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "loadtest.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "loadtest.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "loadtest.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "loadtest.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "loadtest.refusals" -}}
{{- with .Values -}}
{{- if not .image.repository -}}
{{- fail (printf "\n\nimage.repository is empty. Build and push the image, then say where it is:\n  docker build --target loadtest -t REGISTRY/saccade-loadtest:%s . && docker push REGISTRY/saccade-loadtest:%s\n  --set image.repository=REGISTRY/saccade-loadtest\n" $.Chart.AppVersion $.Chart.AppVersion) -}}
{{- end -}}
{{- if not (regexMatch "^https?://[^/]+" .target.url) -}}
{{- fail (printf "\n\ntarget.url is %q; expected the service's address, as http://detector-transformer.vision.svc.cluster.local\n" .target.url) -}}
{{- end -}}
{{- if and (has "V2GrpcUser" .load.users) (not .target.grpc) -}}
{{- fail "\n\nload.users has V2GrpcUser and target.grpc is empty; expected the host and port of gRPC.\n" -}}
{{- end -}}
{{- if ge (int .load.warmupS) (int .load.runTimeS) -}}
{{- fail (printf "\n\nload.warmupS is %v and load.runTimeS %v; expected less: nothing would be left to judge.\n" .load.warmupS .load.runTimeS) -}}
{{- end -}}
{{- if lt (int .load.cameras) (int .workers.replicas) -}}
{{- fail (printf "\n\nload.cameras is %v and workers.replicas %v; expected at least one camera for each worker.\n" .load.cameras .workers.replicas) -}}
{{- end -}}
{{- if and .load.trace .load.shape -}}
{{- fail (printf "\n\nload.trace is set, and load.shape is %q; expected one of them: a trace has its own moments.\n" .load.shape) -}}
{{- end -}}
{{- if gt (len .load.trace) 900000 -}}
{{- fail (printf "\n\nload.trace has %d characters; expected at most 900000: a ConfigMap holds 1 MiB. Make it shorter, or put it into the image.\n" (len .load.trace)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
