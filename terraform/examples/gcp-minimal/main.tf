# The least that serves: one pool of L4s, private, reached from within the network and over an internal load balancer.
# terraform init && terraform apply -var project=MY-PROJECT

terraform {
  required_version = ">= 1.11, < 2.0"
}

module "stack" {
  source = "../../stacks/gcp"

  project = var.project
  name    = "saccade-min"
  region  = "europe-west4"
  zones   = ["europe-west4-a", "europe-west4-b"]

  pools = {
    gpu = { machine_type = "g2-standard-8" }
  }

  # Two replicas, so that the failure of one is no outage, and room for a new revision beside them.
  sizing = { max_replicas = 2 }

  # For a trial: `terraform destroy` takes everything with it.
  deletion_protection = false

  tags = { environment = "trial" }
}
