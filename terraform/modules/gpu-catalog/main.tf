# What machine types with GPUs there are, and what a GPU can do. Data only: no provider, no resource.
#
# gpus.json      product is the value of NVIDIA's node label nvidia.com/gpu.product; mig_instances says into how many
#                instances of one profile a GPU can be divided (NVIDIA's MIG user guide), gke_mig_profiles which of them
#                GKE's device plugin knows.
# machines.json  from the clouds' lists of machine types. capacities where a type cannot be had in every way: Google has the
#                smaller A3 as spot machines (or by flex-start, which is not offered here). Whether a region has a type is
#                not here, since it changes: the stacks ask the cloud.

locals {
  gpus = jsondecode(file("${path.module}/gpus.json"))

  # Quotas of EC2 count vCPUs of families, by capacity; codes as Service Quotas has them.
  aws_quotas = {
    g = {
      on_demand = { key = "L-DB2E81BA", name = "Running On-Demand G and VT instances" }
      spot      = { key = "L-3819A6DF", name = "All G and VT Spot Instance Requests" }
    }
    p4 = {
      on_demand = { key = "L-417A185B", name = "Running On-Demand P instances" }
      spot      = { key = "L-7212CCBC", name = "All P4, P3 and P2 Spot Instance Requests" }
    }
    p5 = {
      on_demand = { key = "L-417A185B", name = "Running On-Demand P instances" }
      spot      = { key = "L-C4BD4855", name = "All P5 Spot Instance Requests" }
    }
  }

  listed = merge(jsondecode(file("${path.module}/machines.json")), var.additional_machine_types)

  machine_types = {
    for name, machine in local.listed : name => {
      cloud              = machine.cloud
      gpu                = machine.gpu
      gpu_product        = local.gpus[machine.gpu].product
      architecture       = local.gpus[machine.gpu].architecture
      compute_capability = local.gpus[machine.gpu].compute_capability
      gpu_memory_gib     = local.gpus[machine.gpu].memory_gib
      gke_accelerator    = local.gpus[machine.gpu].gke_accelerator
      mig_instances = tomap({
        for profile, count in local.gpus[machine.gpu].mig_instances : profile => tonumber(count)
        if machine.cloud != "gcp" || contains(local.gpus[machine.gpu].gke_mig_profiles, profile)
      })
      capacities = tolist(try(machine.capacities, ["on_demand", "spot", "reservation"]))
      gpus       = machine.gpus
      vcpus      = machine.vcpus
      memory_gib = machine.memory_gib
      # A reservation's machines are on-demand ones.
      quotas = {
        for capacity in ["on_demand", "spot"] : capacity => machine.cloud == "aws" ? {
          key   = try(local.aws_quotas[machine.quota_family][capacity].key, "")
          name  = try(local.aws_quotas[machine.quota_family][capacity].name, "")
          unit  = "vCPUs"
          units = machine.vcpus
          } : {
          key   = capacity == "spot" ? "PREEMPTIBLE_${machine.quota_family}" : machine.quota_family
          name  = capacity == "spot" ? "PREEMPTIBLE_${machine.quota_family}" : machine.quota_family
          unit  = "GPUs"
          units = machine.gpus
        }
      }
    }
  }
}
