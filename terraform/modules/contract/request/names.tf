locals {
  name_limits = {
    aws = {
      characters = 24
      reason     = "the load balancer's name, which is this with \"-ingress\", may have 32"
    }
    gcp = {
      characters = 20
      reason     = "the id of a service account, which is this with for example \"-autoscale\", may have 30"
    }
  }

  tags = merge(var.tags, {
    managed-by = "terraform"
    part-of    = "saccade"
    cluster    = var.name
  })
}
