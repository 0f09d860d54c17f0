{{/* Upper bounds of saccade_request_seconds from a millisecond on, in seconds; a test holds them against the code. */}}
{{- define "saccade.bounds" -}}
0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1.0 2.0 5.0 10.0 30.0
{{- end -}}

{{/* Requests as fast as the SLO wants, per second: (list $ window labels). Between two bounds of the histogram requests are
taken to lie evenly, as histogram_quantile takes them. */}}
{{- define "saccade.fastRate" -}}
{{- $limit := divf (index . 0).Values.slo.p99Ms 1000 -}}
{{- $low := "" -}}
{{- $high := "" -}}
{{- range $bound := splitList " " (include "saccade.bounds" .) -}}
{{- if le (float64 $bound) $limit -}}
{{- $low = $bound -}}
{{- else if not $high -}}
{{- $high = $bound -}}
{{- end -}}
{{- end -}}
{{- $share := divf (subf $limit (float64 $low)) (subf (float64 $high) (float64 $low)) -}}
{{- $bucket := printf "sum by (%s) (rate(saccade_request_seconds_bucket{%s,stage=\"total\",le=\"%%s\"}[%s]))" (index . 2) (include "saccade.selector" (index . 0)) (index . 1) -}}
{{- if lt $share 0.000001 -}}
{{ printf $bucket $low }}
{{- else -}}
({{ printf "%.4f" (subf 1 $share) }} * {{ printf $bucket $low }} + {{ printf "%.4f" $share }} * {{ printf $bucket $high }})
{{- end -}}
{{- end -}}

{{/* What clients ask: the transformer of this service. */}}
{{- define "saccade.selector" -}}
namespace="{{ .Release.Namespace }}",inferenceservice="{{ include "saccade.name" . }}",component="transformer"
{{- end -}}

{{/* Codes that are the service's fault; a client that leaves (499) or asks wrongly is not. */}}
{{- define "saccade.faults" -}}
5..|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|UNKNOWN
{{- end -}}

{{/* Share of the requests that break a promise: (list $ "availability" window labels). */}}
{{- define "saccade.broken" -}}
{{- $labels := index . 3 -}}
{{- $selector := include "saccade.selector" (index . 0) -}}
{{- $window := index . 2 -}}
{{- if eq (index . 1) "availability" -}}
(sum by ({{ $labels }}) (rate(saccade_requests_total{ {{- $selector }},code=~"{{ include "saccade.faults" . }}"}[{{ $window }}])) or 0 * sum by ({{ $labels }}) (rate(saccade_requests_total{ {{- $selector }}}[{{ $window }}]))) / sum by ({{ $labels }}) (rate(saccade_requests_total{ {{- $selector }}}[{{ $window }}]))
{{- else -}}
1 - {{ include "saccade.fastRate" (list (index . 0) $window $labels) }} / sum by ({{ $labels }}) (rate(saccade_request_seconds_count{ {{- $selector }},stage="total"}[{{ $window }}]))
{{- end -}}
{{- end -}}
