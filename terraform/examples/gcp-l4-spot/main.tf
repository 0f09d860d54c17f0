# L4s as spot machines, two replicas to a GPU, with a pool on demand for when there are none; on the internet by HTTPS under
# a domain of ours, with a Redis for the frame cache and a canary's GPUs.
module "saccade" {
  source = "../../stacks/gcp"

  project = var.project
  name    = "saccade-l4"
  region  = var.region
  zones   = [for zone in ["a", "b", "c"] : "${var.region}-${zone}"]

  # By a name that IAM guards: no VPN is needed, and no address is open.
  endpoint = { dns = true }

  pools = {
    spot = {
      machine_type     = "g2-standard-16"
      capacity         = "spot"
      min_nodes        = 0
      max_nodes        = 6
      fallback         = "on-demand"
      sharing          = "time_slicing"
      replicas_per_gpu = 2
    }
    on-demand = {
      machine_type     = "g2-standard-16"
      min_nodes        = 1
      max_nodes        = 3
      sharing          = "time_slicing"
      replicas_per_gpu = 2
    }
  }
  serving_pool = "spot"

  # Measure rps_per_replica of your model on half an L4 (saccade-loadtest); this number is an example.
  sizing = {
    target_rps      = 1000
    base_rps        = 200
    rps_per_replica = 300
    canary_percent  = 10
  }

  # What `gcloud compute regions describe europe-west4` said; a pool that grows beyond is refused here, not at night.
  quotas = {
    NVIDIA_L4_GPUS             = 4
    PREEMPTIBLE_NVIDIA_L4_GPUS = 8
  }

  ingress = {
    domain              = var.domain
    allowed_cidrs       = var.callers
    requests_per_minute = 6000
    dns_zone            = var.dns_zone
  }

  cache = { memory_gib = 1 }

  tags = { environment = "production" }
}
