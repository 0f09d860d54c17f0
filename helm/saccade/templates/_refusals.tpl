{{/* Values that would not work, each with what was given, what is allowed, and why. Types and names are the schema's. */}}
{{- define "saccade.refusals" -}}
{{- $values := .Values -}}
{{- range $part := list "predictor" "transformer" -}}
{{- $component := index $values $part -}}
{{- if not $component.image.repository -}}
{{- fail (printf "\n\n%s.image.repository is empty. Build and push the image, then say where it is:\n  docker build --target %s -t REGISTRY/saccade-%s:%s . && docker push REGISTRY/saccade-%s:%s\n  --set %s.image.repository=REGISTRY/saccade-%s\n" $part $part $part $.Chart.AppVersion $part $.Chart.AppVersion $part $part) -}}
{{- end -}}
{{- if and (eq (int $component.minReplicas) 0) (not $component.allowScaleToZero) -}}
{{- fail (printf "\n\n%s.minReplicas is 0; expected at least 1, or %s.allowScaleToZero=true: without a replica the next request waits for a node, the image and the model, which takes minutes with a GPU.\n" $part $part) -}}
{{- end -}}
{{- range $kind := list "requests" "limits" -}}
{{- range $what := list "cpu" "memory" -}}
{{- if not (get (default dict (get $component.resources $kind)) $what) -}}
{{- fail (printf "\n\n%s.resources.%s has no %s; expected cpu and memory in both requests and limits: KServe fills what is missing with its own defaults (1 CPU, 2Gi), and Kubernetes refuses a request above its limit.\n" $part $kind $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (int $component.minReplicas) (int $component.maxReplicas) -}}
{{- fail (printf "\n\n%s.minReplicas is %v and maxReplicas %v; expected at most as many: KServe refuses it.\n" $part $component.minReplicas $component.maxReplicas) -}}
{{- end -}}
{{- $grace := dig "drainGraceS" 30 $component.settings -}}
{{- if gt (addf $grace 10) (float64 $component.timeoutSeconds) -}}
{{- fail (printf "\n\n%s.timeoutSeconds is %v and settings.drainGraceS %v; expected at least 10 more: Knative gives a pod that ends timeoutSeconds, and then kills it with what it still answers.\n" $part $component.timeoutSeconds $grace) -}}
{{- end -}}
{{- include "saccade.componentRefusals" (list $ $part) -}}
{{- end -}}
{{- include "saccade.nameRefusals" $ -}}
{{- if $values.redis.enabled -}}
{{- include "saccade.resourceRefusals" (list "redis.resources" $values.redis.resources) -}}
{{- end -}}
{{- if $values.planBuild.enabled -}}
{{- include "saccade.imageRefusals" (list "planBuild.image" $values.planBuild.image) -}}
{{- include "saccade.resourceRefusals" (list "planBuild.resources" $values.planBuild.resources) -}}
{{- end -}}
{{- with $values.predictor -}}
{{- if ge (int .timeoutSeconds) (int $values.transformer.timeoutSeconds) -}}
{{- fail (printf "\n\npredictor.timeoutSeconds is %v and transformer.timeoutSeconds %v; expected the transformer's to be larger: it waits for the predictor, and has to answer after it.\n" .timeoutSeconds $values.transformer.timeoutSeconds) -}}
{{- end -}}
{{- $least := int (include "saccade.leastHard" $) -}}
{{- $target := int (include "saccade.predictorTarget" $) -}}
{{- $hard := int .concurrency.hard -}}
{{- if and (gt $hard 0) (lt $hard $least) -}}
{{- fail (printf "\n\npredictor.concurrency.hard is %d; expected 0 (no limit, which is best) or at least %d = (depth + 1) x rows x instances x 1.25: a smaller one starves the batcher (docs/slo.md).\n" $hard $least) -}}
{{- end -}}
{{- if and (gt $hard 0) (gt $target $hard) -}}
{{- fail (printf "\n\npredictor.concurrency.target is %d and hard %d; expected at most as many: replicas would be full before one is added.\n" $target $hard) -}}
{{- end -}}
{{- if and (eq .gpu.sharing "mig") (not .gpu.migProfile) -}}
{{- fail "\n\npredictor.gpu.sharing is mig and migProfile is empty; expected one, for example 1g.10gb, which asks for nvidia.com/mig-1g.10gb.\n" -}}
{{- end -}}
{{- if and .gpu.migProfile (ne .gpu.sharing "mig") -}}
{{- fail (printf "\n\npredictor.gpu.migProfile is %s and sharing %s; expected sharing=mig with a profile.\n" .gpu.migProfile .gpu.sharing) -}}
{{- end -}}
{{- if and (eq (int .gpu.count) 0) (or .gpu.product (ne .gpu.sharing "none")) -}}
{{- fail (printf "\n\npredictor.gpu.count is 0, but product is %q and sharing %q; expected neither without a GPU.\n" .gpu.product .gpu.sharing) -}}
{{- end -}}
{{- end -}}
{{- with $values.transformer.concurrency -}}
{{- if and (gt (int .hard) 0) (gt (int .target) (int .hard)) -}}
{{- fail (printf "\n\ntransformer.concurrency.target is %v and hard %v; expected at most as many: replicas would be full before one is added.\n" .target .hard) -}}
{{- end -}}
{{- end -}}
{{- $storageUri := include "saccade.storageUri" . -}}
{{- if and $storageUri $values.model.path -}}
{{- fail (printf "\n\n%s is %s and model.path %s; expected one of them.\n" (ternary "model.storageUri" "planBuild.target" (eq $storageUri $values.model.storageUri)) $storageUri $values.model.path) -}}
{{- end -}}
{{- if not (or $storageUri $values.model.path) -}}
{{- fail "\n\nmodel.storageUri and model.path are empty; expected where the model repository lies: storageUri=s3://BUCKET/REPOSITORY (gs://, oci://, pvc://, https://, hf://), or path=/DIRECTORY in the predictor's image.\n" -}}
{{- end -}}
{{- if eq $values.cache.mode "redis" -}}
{{- if not (or $values.redis.enabled $values.redis.existingSecret) -}}
{{- fail "\n\ncache.mode is redis, but there is none; expected redis.existingSecret=NAME, a Secret whose key url says where it is, or redis.enabled=true for a small one in the release.\n" -}}
{{- end -}}
{{- end -}}
{{- if and $values.redis.enabled $values.redis.existingSecret -}}
{{- fail (printf "\n\nredis.enabled is true and redis.existingSecret %s; expected one of them.\n" $values.redis.existingSecret) -}}
{{- end -}}
{{- if and (or $values.redis.enabled $values.redis.existingSecret) (ne $values.cache.mode "redis") -}}
{{- fail (printf "\n\nThere is a Redis, but cache.mode is %s; expected redis: nothing else uses it.\n" $values.cache.mode) -}}
{{- end -}}
{{- if and $values.monitoring.rules.enabled (not $values.monitoring.podMonitor.enabled) -}}
{{- fail "\n\nmonitoring.rules.enabled is true and monitoring.podMonitor.enabled false; expected both: the rules read what it collects, by labels that it gives.\n" -}}
{{- end -}}
{{- if and $values.redis.sealKey (not $values.redis.existingSecret) -}}
{{- fail (printf "\n\nredis.sealKey is %s, but there is no redis.existingSecret; expected the Secret that holds it.\n" $values.redis.sealKey) -}}
{{- end -}}
{{- end -}}
