# The least that serves: one A10G, a second one while a new revision comes up. For trying it out: its state is local unless
# you add a backend, one NAT gateway, and destroying takes everything along.
module "saccade" {
  source = "../../stacks/aws"

  name     = "saccade-minimal"
  admins   = var.admins
  endpoint = { public = true, allowed_cidrs = var.my_cidrs }
  nat      = "single"

  pools  = { gpu = { machine_type = "g5.xlarge" } }
  sizing = { max_replicas = 1, redundancy = 1 }
  system = { max_nodes = 3 }

  deletion_protection = false
  log_retention_days  = 30
}
