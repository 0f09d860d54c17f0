output "platform" {
  description = "The contract, of the form of modules/contract/platform.schema.json: what stacks/platform takes."
  value       = module.answer.platform
}

output "helm_values" {
  description = "Values of helm/saccade that follow from the infrastructure: terraform output -raw helm_values > infra.values.yaml."
  value       = module.answer.helm_values
  # Whoever installs the chart wants nodes.
  depends_on = [module.node_pools]
}

output "platform_inputs" {
  description = "Both as the variables of stacks/platform: terraform output -raw platform_inputs > ../platform/platform.auto.tfvars.json."
  value       = jsonencode({ platform = module.answer.platform, helm_values = module.answer.helm_values })
}

output "sizes" {
  description = "Replicas and the arithmetic that they come from."
  value       = module.request.sizes
}

output "cost" {
  description = "What the GPU nodes cost a month, by the price table; missing names the prices that it lacks."
  value       = module.request.cost
}

output "quotas_needed" {
  description = "By quota, what the pools need at their largest, in GPUs."
  value       = module.request.quotas_needed
}

output "dns_records" {
  description = "Records to make where ingress has no dns_zone: for the certificates, and for the hosts."
  value       = var.ingress == null ? [] : module.ingress[0].records
}

output "configure_kubectl" {
  description = "Command that points kubectl at the cluster."
  value       = "gcloud container clusters get-credentials ${module.cluster.name} --project ${var.project} --region ${var.region}${var.endpoint.dns ? " --dns-endpoint" : var.endpoint.public ? "" : " --internal-ip"}"
}

output "cache_secret" {
  description = "Command that puts the URL of Redis into the cluster, for the chart; null without a cache."
  value       = var.cache == null ? null : "kubectl -n ${var.namespace} create secret generic saccade-cache --from-literal=url=\"$(gcloud secrets versions access latest --project ${var.project} --secret ${var.name}-cache-url)\""
}
