{{/* Rollouts that would mix what does not belong together; each with what was given, what is allowed, and why. What compares
with the last release takes it from the live objects where there is a cluster, and from canary.of where there is none. */}}
{{- define "saccade.rolloutRefusals" -}}
{{- $canary := .Values.canary -}}
{{- $component := $canary.component -}}
{{- $name := include "saccade.name" . -}}
{{- $digest := include "saccade.digest" . -}}
{{- $live := include "saccade.liveService" . | fromYaml -}}
{{- $last := include "saccade.lastRollout" . | fromYaml -}}
{{- $settings := .Values.transformer.settings -}}
{{- $wait := printf "saccade rollout wait %s -n %s" $name .Release.Namespace -}}
{{- if eq $canary.split "camera" -}}
{{- if or $settings.candidateHost $settings.candidateShareFile $settings.candidateShare -}}
{{- fail "\n\ncanary.split is camera and transformer.settings has candidateHost, candidateShare or candidateShareFile; expected one of them: both say who the candidate is.\n" -}}
{{- end -}}
{{- if eq $component "transformer" -}}
{{- fail "\n\ncanary.component is transformer and canary.split camera; expected split=request: it is the transformer that splits by camera, between two predictors.\n" -}}
{{- end -}}
{{- end -}}
{{- if and (not $component) $canary.percent -}}
{{- fail (printf "\n\ncanary.percent is %v and canary.component is empty; expected predictor or transformer: whose newest revision gets that share.\n" $canary.percent) -}}
{{- end -}}
{{- $isCanary := eq "true" (include "saccade.hasCanary" .) -}}
{{- $components := dig "status" "components" dict $live -}}
{{- /* Whose candidate is live: as recorded, or as the InferenceService has it. */ -}}
{{- $tried := default "" $last.component -}}
{{- if $live -}}
{{- range $part := list "predictor" "transformer" -}}
{{- if lt (int (dig "spec" $part "canaryTrafficPercent" 100 $live)) 100 -}}
{{- $tried = $part -}}
{{- end -}}
{{- end -}}
{{- if and $last.applied (or $isCanary $tried) -}}
{{- $has := printf "%s-%s" (include "saccade.fingerprint" $live.spec.predictor) (include "saccade.fingerprint" $live.spec.transformer) -}}
{{- if ne $has $last.applied -}}
{{- fail (printf "\n\nThe InferenceService has another spec (%s) than the last release recorded (%s): its upgrade did not end well, or somebody has changed it by hand; expected that upgrade repeated until it does, before a canary is begun, changed or ended.\n" $has $last.applied) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $tried $isCanary (ne $component $tried) -}}
{{- fail (printf "\n\ncanary.component is %s, but a candidate of the %s is being tried; expected that to be promoted or taken back first: its candidate would get all of the traffic at once (docs/rollout.md).\n" $component $tried) -}}
{{- end -}}
{{- if and $last $tried (not $isCanary) -}}
{{- $status := default dict (get $components $tried) -}}
{{- if and (eq $digest $last.stable) (ne $digest $last.digest) -}}
{{- fail (printf "\n\nThese are the stable values, but the last release has a canary of the %s at %s %%; expected them with canary.component=%s and canary.percent=0 first, then %s, then without a canary: until their revision is ready, everything would go to the newest one that is, the candidate (docs/rollout.md).\n" $tried $last.percent $tried $wait) -}}
{{- end -}}
{{- if ne $digest $last.digest -}}
{{- fail (printf "\n\nThe last release has a canary of the %s at %s %%, and these values (%s) are neither its candidate (%s) nor what is stable (%s); expected the candidate's values with canary.component= to promote it, or the way back (docs/rollout.md): with a third revision nobody would know which one serves.\n" $tried $last.percent $digest $last.digest $last.stable) -}}
{{- end -}}
{{- if and $live (ne $status.latestCreatedRevision $status.latestReadyRevision) -}}
{{- fail (printf "\n\nThe %s's newest revision, %s, is not ready, but %s; expected it to be before it gets all of the traffic: %s.\n" $tried (toString $status.latestCreatedRevision) (toString $status.latestReadyRevision) $wait) -}}
{{- end -}}
{{- end -}}
{{- if $isCanary -}}
{{- $stable := include "saccade.stable" . -}}
{{- if not $stable -}}
{{- fail (printf "\n\ncanary.component is %s, but nothing says what is stable: there is no live release to look up, and canary.of is empty; expected canary.of=DIGEST of the stable release, which its NOTES and `saccade rollout digest %s -n %s` print. At a first installation there is nothing to try something beside.\n" $component $name .Release.Namespace) -}}
{{- end -}}
{{- if and (not $live) (include "saccade.seesCluster" .) -}}
{{- fail (printf "\n\ncanary.component is %s, but there is no InferenceService %s in the namespace %s yet; expected the stable release first, without a canary: KServe gives the first revision everything, whatever the percentage.\n" $component $name .Release.Namespace) -}}
{{- end -}}
{{- if and $last (ne $stable $last.stable) -}}
{{- fail (printf "\n\ncanary.of is %s, but stable is %s; expected the latter: something was promoted or changed since that digest was taken.\n" $stable $last.stable) -}}
{{- end -}}
{{- $before := splitList "-" $stable -}}
{{- $now := splitList "-" $digest -}}
{{- $at := ternary 0 1 (eq $component "predictor") -}}
{{- $other := ternary "transformer" "predictor" (eq $component "predictor") -}}
{{- if ne (index $before (sub 1 $at)) (index $now (sub 1 $at)) -}}
{{- fail (printf "\n\ncanary.component is %s, but the %s differs from the stable release's, too (%s, stable: %s); expected one at a time: their shares are drawn independently, so that both new, both old and two mixed pairs would serve (kserve#1669). Change the %s before or after the canary.\n" $component $other (index $now (sub 1 $at)) (index $before (sub 1 $at)) $other) -}}
{{- end -}}
{{- $was := splitList "x" (index $before $at) -}}
{{- $is := splitList "x" (index $now $at) -}}
{{- if ne (last $was) (last $is) -}}
{{- fail (printf "\n\n%s.minReplicas is %s and the stable release's %s; expected the same during a canary: Knative makes a revision of that change as well, so that candidate and stable would differ in more than what is tried. Change it before or after the canary.\n" $component (last $is) (last $was)) -}}
{{- end -}}
{{- $goesBack := eq (first $was) (first $is) -}}
{{- if and $goesBack (or $canary.percent (and $live (not $tried))) -}}
{{- fail (printf "\n\ncanary.component is %s at %v %%, but the %s is as in the stable release (%s); expected a change of it, which the canary tries; percent=0 on the way back from a candidate; or canary.component= for none.\n" $component $canary.percent $component (index $now $at)) -}}
{{- end -}}
{{- if and $live (not $goesBack) -}}
{{- $status := default dict (get $components $component) -}}
{{- if not $status.latestRolledoutRevision -}}
{{- fail (printf "\n\ncanary.component is %s, but no revision of it has been ready with all of the traffic yet; expected a stable one first (%s): KServe gives the first that is ready everything, whatever the percentage.\n" $component $wait) -}}
{{- end -}}
{{- /* What is recorded as stable has to have arrived: of the other component always, of this one where no candidate is tried. */ -}}
{{- range $part := ternary (list $other) (list $component $other) (eq $tried $component) -}}
{{- $of := default dict (get $components $part) -}}
{{- $condition := dict -}}
{{- range dig "status" "conditions" list $live -}}
{{- if eq .type (printf "%sReady" (title $part)) -}}
{{- $condition = . -}}
{{- end -}}
{{- end -}}
{{- if or (ne (toString $of.latestCreatedRevision) (toString $of.latestReadyRevision)) (eq (toString $condition.status) "False") -}}
{{- fail (printf "\n\nThe last release is recorded as stable, but its %s has not arrived: its newest revision is %s, and %s serves%s; expected a stable release that has (%s).\n" $part (toString $of.latestCreatedRevision) (toString $of.latestReadyRevision) (ternary (printf " (%s)" (toString $condition.reason)) "" (eq (toString $condition.status) "False")) $wait) -}}
{{- end -}}
{{- end -}}
{{- if and $last (ne $digest $last.digest) (ne $status.latestReadyRevision $status.latestRolledoutRevision) -}}
{{- fail (printf "\n\nThe newest revision of the %s that is ready is %s, but %s is the one that was rolled out; expected the same before a new candidate: until that is ready its share would go to %s, which was rejected or is still being tried. First apply the stable values with canary.percent=0, then %s, then without a canary (docs/rollout.md).\n" $component $status.latestReadyRevision $status.latestRolledoutRevision $status.latestReadyRevision $wait) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.rollout.checkHeadroom (not (include "saccade.samePredictor" .)) -}}
{{- $surge := int (include "saccade.surgeGpus" .) -}}
{{- if kindIs "invalid" .Values.rollout.maxSurgeGpus -}}
{{- fail (printf "\n\nrollout.checkHeadroom is true and rollout.maxSurgeGpus is not set; expected the number of GPUs that may be held beside those in use: a change of the predictor holds %d more until the old revision is gone.\n" $surge) -}}
{{- end -}}
{{- if gt $surge (int .Values.rollout.maxSurgeGpus) -}}
{{- fail (printf "\n\nrollout.maxSurgeGpus is %v, but a change of the predictor holds %d more until the old revision is gone (%s x gpu.count %v: a revision begins with minReplicas, and with 1 at least); expected at least as many, or the rollout would wait for GPUs until its deadline.\n" .Values.rollout.maxSurgeGpus $surge (include "saccade.firstPods" .Values.predictor) .Values.predictor.gpu.count) -}}
{{- end -}}
{{- end -}}
{{- end -}}
