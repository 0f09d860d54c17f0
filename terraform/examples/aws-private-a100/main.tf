# 100 cameras of 10 pictures a second: 1,000 a second at 1,455 a second for an A100 are one, two for redundancy. Nothing
# has a public address but the NAT gateways; the Kubernetes API and the load balancer are reached from peered networks.
module "saccade" {
  source = "../../stacks/aws"

  name    = "saccade-a100"
  admins  = var.admins
  zones   = var.zones
  network = { cidr = "10.80.0.0/16", reserved_cidrs = var.peered_cidrs }

  pools = {
    a100 = {
      machine_type = "p4d.24xlarge" # eight A100s of 40 GB: AWS has no smaller machine with one
      capacity     = "reservation"
      reservation  = var.reservation
      zones        = [var.reservation_zone]
      disk_gib     = 500
    }
  }
  sizing = { target_rps = 1000, rps_per_replica = 1455, redundancy = 2, canary_percent = 10 }
  system = { machine_type = "c7i.4xlarge", min_nodes = 3, max_nodes = 10 }

  ingress = {
    certificate_arn         = var.certificate_arn
    allowed_cidrs           = concat(["10.80.0.0/16"], var.peered_cidrs)
    request_timeout_seconds = 120
  }
  cache          = { node_type = "cache.r7g.large", replicas = 1 }
  cache_password = var.cache_password
  budget         = { monthly_limit_usd = var.budget_usd, emails = var.emails }
}
