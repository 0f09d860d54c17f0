output "gpus" {
  description = "GPUs by name: product label, architecture, compute capability, memory (GiB), GKE's name of it, instances by MIG profile, and the profiles that GKE makes."
  value       = local.gpus
}

output "machine_types" {
  description = "Machine types by name: cloud, GPU with its properties, GPUs, vCPUs and memory (GiB) of a machine, capacities that it can be had as, and the quota that one counts against, on demand and as spot, with its unit."
  value       = local.machine_types
}
