# What the account and the region say: asked at every plan, so that a missing quota is a sentence and not a node group
# that waits for half an hour.

data "aws_region" "this" {}

data "aws_availability_zones" "this" {
  state = "available"
  # EKS makes no control plane there. By ID: which name a zone has differs by account.
  exclude_zone_ids = ["use1-az3", "usw1-az2", "cac1-az3"]
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }

  lifecycle {
    postcondition {
      condition     = length(setsubtract(coalesce(var.zones, []), self.names)) == 0
      error_message = "zones is ${join(", ", coalesce(var.zones, []))}: write some of ${join(", ", sort(self.names))}: EKS takes no others in this region and account (nor the zones whose IDs are use1-az3, usw1-az2 and cac1-az3)."
    }
  }
}

locals {
  region = data.aws_region.this.region
  zones  = var.zones == null ? slice(sort(data.aws_availability_zones.this.names), 0, min(3, length(data.aws_availability_zones.this.names))) : var.zones
}

module "catalog" {
  source = "../../modules/gpu-catalog"

  additional_machine_types = var.additional_machine_types
}

# All that the catalog has, so that a refusal can say what is offered.
data "aws_ec2_instance_type_offerings" "this" {
  count = var.check_account ? 1 : 0

  location_type = "availability-zone"
  filter {
    name   = "instance-type"
    values = [for name, machine in module.catalog.machine_types : name if machine.cloud == "aws"]
  }
}

data "aws_servicequotas_service_quota" "this" {
  for_each = var.check_account ? module.request.quotas_needed : {}

  service_code = "ec2"
  quota_code   = each.key
}

locals {
  offerings = one(data.aws_ec2_instance_type_offerings.this[*])
  offered_zones = local.offerings == null ? null : {
    for type in distinct(local.offerings.instance_types) :
    type => [for at, name in local.offerings.instance_types : local.offerings.locations[at] if name == type]
  }
  quotas = { for key, quota in data.aws_servicequotas_service_quota.this : key => quota.value }
}
