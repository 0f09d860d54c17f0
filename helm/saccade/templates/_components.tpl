{{/* What of the InferenceService makes the revisions of a component: all of it but how the traffic is split. */}}

{{- define "saccade.predictor" -}}
{{- with .Values.predictor -}}
annotations: {{- include "saccade.componentAnnotations" (list $ "predictor") | nindent 2 }}
minReplicas: {{ .minReplicas }}
maxReplicas: {{ .maxReplicas }}
scaleMetric: concurrency
scaleTarget: {{ include "saccade.predictorTarget" $ }}
containerConcurrency: {{ .concurrency.hard }}
timeout: {{ .timeoutSeconds }}
serviceAccountName: {{ include "saccade.serviceAccountName" $ | quote }}
enableServiceLinks: false
{{- include "saccade.placement" (list $ "predictor") | nindent 0 }}
containers:
  - name: kserve-container
    image: {{ include "saccade.image" (list $ "predictor") }}
    imagePullPolicy: {{ .image.pullPolicy }}
    args:
      - --model_name={{ $.Values.model.name }}
      - --http_port=8080
      - --grpc_port=8081
    env:
      {{- with include "saccade.storageUri" $ }}
      # KServe's storage initializer copies what this names to /mnt/models.
      - name: STORAGE_URI
        value: {{ . | quote }}
      {{- else }}
      - name: SACCADE_PREDICTOR_MODEL_REPOSITORY
        value: {{ $.Values.model.path | quote }}
      {{- end }}
      - name: SACCADE_PREDICTOR_METRICS_ON_HTTP
        value: "false"
      {{- include "saccade.settings" (list "SACCADE_PREDICTOR_" .settings) | nindent 6 }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {{- include "saccade.port" .protocol | nindent 8 }}
    {{- include "saccade.probes" (list $ "predictor") | nindent 4 }}
    resources: {{- include "saccade.predictorResources" $ | nindent 6 }}
    securityContext: {{- include "saccade.securityContext" $ | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
volumes:
  - name: tmp
    emptyDir: {}
{{- end -}}
{{- end -}}

{{- define "saccade.transformer" -}}
{{- with .Values.transformer -}}
annotations: {{- include "saccade.componentAnnotations" (list $ "transformer") | nindent 2 }}
minReplicas: {{ .minReplicas }}
maxReplicas: {{ .maxReplicas }}
scaleMetric: concurrency
scaleTarget: {{ .concurrency.target }}
containerConcurrency: {{ .concurrency.hard }}
timeout: {{ .timeoutSeconds }}
serviceAccountName: {{ include "saccade.serviceAccountName" $ | quote }}
enableServiceLinks: false
{{- include "saccade.placement" (list $ "transformer") | nindent 0 }}
containers:
  - name: kserve-container
    image: {{ include "saccade.image" (list $ "transformer") }}
    imagePullPolicy: {{ .image.pullPolicy }}
    args:
      - --model_name={{ $.Values.model.name }}
      - --http_port=8080
      - --grpc_port=8081
      - --predictor_protocol={{ $.Values.predictor.protocol }}
      - --workers=1
    env:
      - name: SACCADE_TRANSFORMER_METRICS_ON_HTTP
        value: "false"
      - name: SACCADE_TRANSFORMER_CACHE
        value: {{ $.Values.cache.mode | quote }}
      {{- include "saccade.settings" (list "SACCADE_TRANSFORMER_CACHE_" $.Values.cache.settings) | nindent 6 }}
      {{- include "saccade.redisEnv" $ | nindent 6 }}
      {{- if eq $.Values.canary.split "camera" }}
      # Stands there without a canary, too, so that beginning one is no new revision of the transformer.
      - name: SACCADE_TRANSFORMER_CANDIDATE_HOST
        value: latest-{{ include "saccade.name" $ }}-predictor.{{ $.Release.Namespace }}
      - name: SACCADE_TRANSFORMER_CANDIDATE_SHARE_FILE
        value: /etc/saccade/rollout/candidateShare
      {{- end }}
      {{- include "saccade.settings" (list "SACCADE_TRANSFORMER_" .settings) | nindent 6 }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {{- include "saccade.port" "v2" | nindent 8 }}
    {{- include "saccade.probes" (list $ "transformer") | nindent 4 }}
    resources: {{- toYaml .resources | nindent 6 }}
    securityContext: {{- include "saccade.securityContext" $ | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if eq $.Values.canary.split "camera" }}
      - name: rollout
        mountPath: /etc/saccade/rollout
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if eq $.Values.canary.split "camera" }}
  - name: rollout
    configMap:
      name: {{ include "saccade.camerasName" $ }}
      items:
        - key: candidateShare
          path: candidateShare
  {{- end }}
{{- end -}}
{{- end -}}
