# Address arithmetic. The network is cut into four quarters: on aws three are the zones' private subnets (a fourth zone
# takes half of the last one) and the rest holds the small public ones; on gcp the first is the nodes', and the last
# holds the load balancers' proxies and the control plane.

locals {
  service_cidr = coalesce(var.network.service_cidr, var.cloud == "aws" ? "172.20.0.0/16" : "172.20.0.0/20")
  pod_cidr     = var.cloud == "gcp" ? coalesce(var.network.pod_cidr, "10.128.0.0/14") : var.network.pod_cidr

  cidrs = concat(
    [{ use = "cidr", cidr = var.network.cidr }],
    local.pod_cidr == null ? [] : [{ use = "pod_cidr", cidr = local.pod_cidr }],
    [{ use = "service_cidr", cidr = local.service_cidr }],
    [for at, cidr in var.network.reserved_cidrs : { use = "reserved_cidrs[${at}]", cidr = cidr }],
  )

  # Two ranges overlap where they are the same at the shorter of their prefixes. Reserved ones may overlap each other.
  overlaps = flatten([
    for at, one in local.cidrs : [
      for other in slice(local.cidrs, at + 1, length(local.cidrs)) :
      "${one.use} ${one.cidr} overlaps ${other.use} ${other.cidr}"
      if !(startswith(one.use, "reserved") && startswith(other.use, "reserved")) && try(
        cidrhost("${split("/", one.cidr)[0]}/${min(split("/", one.cidr)[1], split("/", other.cidr)[1])}", 0)
        == cidrhost("${split("/", other.cidr)[0]}/${min(split("/", one.cidr)[1], split("/", other.cidr)[1])}", 0),
        false
      )
    ]
  ])

  quarters = [for at in range(4) : cidrsubnet(var.network.cidr, 2, at)]

  network = {
    cidr         = var.network.cidr
    pod_cidr     = local.pod_cidr
    service_cidr = local.service_cidr
    # By zone. /22 of /16, as private ones; public ones have a 64th of the network.
    private_subnets = { for at, zone in var.zones : zone => at < 3 ? local.quarters[at] : cidrsubnet(local.quarters[3], 1, 1) }
    public_subnets  = { for at, zone in var.zones : zone => cidrsubnet(local.quarters[3], 4, at) }
    nodes_subnet    = local.quarters[0]
    proxy_subnet    = cidrsubnet(local.quarters[3], 4, 0)
    control_plane   = cidrsubnet(cidrsubnet(local.quarters[3], 4, 1), 24 - tonumber(split("/", local.quarters[3])[1]), 0)
  }
}
