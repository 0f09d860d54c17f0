# Managed node groups: one without GPUs, and the GPU pools. What differs between operating systems is the volumes: images
# lie on the first one of AL2023, and on Bottlerocket's second, whose first is the system's.

data "aws_partition" "this" {}

locals {
  ami_types = {
    al2023       = "AL2023_x86_64_NVIDIA"
    bottlerocket = "BOTTLEROCKET_x86_64_NVIDIA"
  }
  effects = { NoSchedule = "NO_SCHEDULE", PreferNoSchedule = "PREFER_NO_SCHEDULE", NoExecute = "NO_EXECUTE" }

  groups = merge(
    {
      system = {
        machine_type = var.system.machine_type
        min_nodes    = var.system.min_nodes
        max_nodes    = var.system.max_nodes
        disks        = { "/dev/xvda" = var.system.disk_gib }
        ami_type     = "AL2023_x86_64_STANDARD"
        capacity     = "on_demand"
        reservation  = ""
        zones        = keys(var.subnet_ids)
        labels       = { "saccade.dev/pool" = "system" }
        taints       = []
      }
    },
    { for name, pool in var.pools : name => {
      machine_type = pool.machine_type
      min_nodes    = pool.min_nodes
      max_nodes    = pool.max_nodes
      disks        = merge({ "/dev/xvda" = pool.disk_gib }, var.gpu_os == "al2023" ? {} : { "/dev/xvda" = 4, "/dev/xvdb" = pool.disk_gib })
      ami_type     = local.ami_types[var.gpu_os]
      capacity     = pool.capacity
      reservation  = pool.reservation
      zones        = pool.zones
      labels = merge(
        pool.labels,
        # By this label modules/platform keeps NVIDIA's device plugin off nodes that bring one.
        { "saccade.dev/gpu-os" = var.gpu_os },
        # By this one the autoscaler waits for a new node's nvidia.com/gpu and does not add another one meanwhile. Where the
        # GPU is handed out in parts there never is one, and it would wait for ever.
        pool.sharing == "none" ? { "k8s.amazonaws.com/accelerator" = lower(pool.gpu) } : {},
      )
      taints = pool.taints
    } },
  )
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

# Join the cluster and pull images; what pods may do is their own identity's.
resource "aws_iam_role_policy_attachment" "node" {
  for_each = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly"])

  role       = aws_iam_role.node.name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/${each.key}"
}

resource "aws_launch_template" "this" {
  for_each = local.groups

  name                   = "${var.name}-${each.key}"
  update_default_version = true
  tags                   = var.tags

  dynamic "block_device_mappings" {
    for_each = each.value.disks
    content {
      device_name = block_device_mappings.key
      ebs {
        volume_type           = "gp3"
        volume_size           = block_device_mappings.value
        throughput            = block_device_mappings.value >= 200 ? 500 : 125
        iops                  = block_device_mappings.value >= 200 ? 6000 : 3000
        encrypted             = true
        kms_key_id            = var.disks_key_arn
        delete_on_termination = true
      }
    }
  }

  # IMDSv2, and not from pods: a hop is what a pod's network namespace costs.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  monitoring {
    enabled = true
  }

  dynamic "capacity_reservation_specification" {
    for_each = each.value.capacity == "reservation" ? [each.value.reservation] : []
    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume", "network-interface"])
    content {
      resource_type = tag_specifications.key
      tags          = merge(var.tags, { Name = "${var.name}-${each.key}" })
    }
  }
}

resource "aws_eks_node_group" "this" {
  for_each = local.groups

  cluster_name    = var.cluster_name
  node_group_name = "${var.name}-${each.key}"
  node_role_arn   = aws_iam_role.node.arn
  version         = var.kubernetes_version
  ami_type        = each.value.ami_type
  capacity_type   = each.value.capacity == "spot" ? "SPOT" : "ON_DEMAND"
  instance_types  = [each.value.machine_type]
  subnet_ids      = [for zone in each.value.zones : var.subnet_ids[zone]]
  labels          = each.value.labels
  tags            = var.tags

  launch_template {
    id      = aws_launch_template.this[each.key].id
    version = aws_launch_template.this[each.key].latest_version
  }

  scaling_config {
    min_size     = each.value.min_nodes
    max_size     = each.value.max_nodes
    desired_size = each.value.min_nodes
  }

  # One at a time: the pool's headroom is for the pods of a new revision, not for new nodes.
  update_config {
    max_unavailable = 1
  }

  node_repair_config {
    enabled = true
  }

  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = local.effects[taint.value.effect]
    }
  }

  # The number is the autoscaler's from then on. The way of an update is whoever's sets it by AWS' own command (README.md): its
  # argument, update_strategy, came with provider 6.26, and later ones would plan to take away what was set, or EKS' default.
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size, update_config]
  }

  depends_on = [aws_iam_role_policy_attachment.node]
}

# The autoscaler knows of an empty group what EC2 and EKS say of it: GPUs, labels, taints. That a GPU is handed out in
# parts, under another name, it has to be told, or no node would ever be added for a pod that asks for one.
resource "aws_autoscaling_group_tag" "parts" {
  for_each = { for name, pool in var.pools : name => pool if pool.sharing != "none" }

  autoscaling_group_name = aws_eks_node_group.this[each.key].resources[0].autoscaling_groups[0].name

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/resources/${each.value.resource}"
    value               = tostring(each.value.gpus_per_node * each.value.parts_per_gpu)
    propagate_at_launch = false
  }
}
