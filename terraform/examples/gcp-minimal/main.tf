# The least that serves: one pool of L4s, nodes without public addresses, an internal load balancer.
module "saccade" {
  source = "../../stacks/gcp"

  project = var.project
  name    = "saccade-min"
  region  = var.region
  zones   = [for zone in ["a", "b"] : "${var.region}-${zone}"]

  # By a name that IAM guards: no VPN is needed, and no address is open.
  endpoint = { dns = true }

  pools = {
    gpu = { machine_type = "g2-standard-8" }
  }

  # Two replicas, so that the failure of one is no outage, and room for a new revision beside them.
  sizing = { max_replicas = 2 }

  # For a trial: `terraform destroy` takes everything with it.
  deletion_protection = false

  tags = { environment = "trial" }
}
