variable "additional_machine_types" {
  description = "Machine types that the catalog lacks, or has wrong: by name, the cloud (aws, gcp), the GPU (a key of output gpus), GPUs, vCPUs and memory of a machine, and the quota they count against (aws: g, p4 or p5; gcp: the GPU's metric, such as NVIDIA_L4_GPUS)."
  type = map(object({
    cloud        = string
    gpu          = string
    gpus         = number
    vcpus        = number
    memory_gib   = number
    quota_family = string
  }))
  default  = {}
  nullable = false

  validation {
    condition = alltrue([for machine in var.additional_machine_types : contains(keys(local.gpus), machine.gpu)])
    error_message = join(" ", [for name, machine in var.additional_machine_types :
      "additional_machine_types[\"${name}\"].gpu is \"${machine.gpu}\", which the catalog does not know: write one of ${join(", ", keys(local.gpus))}, or add the GPU to gpus.json."
      if !contains(keys(local.gpus), machine.gpu)
    ])
  }

  validation {
    condition = alltrue([for machine in var.additional_machine_types :
      machine.cloud == "gcp" || (machine.cloud == "aws" && contains(keys(local.aws_quotas), machine.quota_family))
    ])
    error_message = "additional_machine_types: write cloud = \"aws\" with quota_family g, p4 or p5, or cloud = \"gcp\" with the metric of the GPU's quota, such as NVIDIA_L4_GPUS."
  }

  validation {
    condition = alltrue([for machine in var.additional_machine_types :
      machine.gpus >= 1 && machine.vcpus >= 1 && machine.memory_gib >= 1
    ])
    error_message = "additional_machine_types: write gpus, vcpus and memory_gib of a machine, each at least 1."
  }
}
