# Several small models or a low load: three replicas share an A10G by time. Spot nodes serve while there are any, nodes on
# demand of the same GPU and sharing otherwise; both bear the label that the predictor is placed by.
module "saccade" {
  source = "../../stacks/aws"

  name     = "saccade-shared"
  admins   = var.admins
  endpoint = { public = true, allowed_cidrs = var.my_cidrs }

  pools = {
    spot = {
      machine_type     = "g5.4xlarge"
      capacity         = "spot"
      min_nodes        = 0
      fallback         = "steady"
      sharing          = "time_slicing"
      replicas_per_gpu = 3
    }
    steady = {
      machine_type     = "g5.2xlarge"
      sharing          = "time_slicing"
      replicas_per_gpu = 3
      min_nodes        = 1
    }
  }
  sizing = { max_replicas = 6, redundancy = 2 }
}
