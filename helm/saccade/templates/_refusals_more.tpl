{{/* Values that would not work, of what is beside the service: dashboards, plans, nodes. As in _refusals.tpl. */}}
{{- define "saccade.dashboardRefusals" -}}
{{- if not .Values.monitoring.podMonitor.enabled -}}
{{- fail "\n\nmonitoring.dashboards.enabled is true and monitoring.podMonitor.enabled false; expected both: the dashboards read what it collects, by labels that it gives.\n" -}}
{{- end -}}
{{- end -}}
