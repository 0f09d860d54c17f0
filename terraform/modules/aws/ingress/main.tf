# The load balancer in front of Kourier. It is Terraform's and not a controller's, so that destroying leaves nothing
# behind; which pods stand behind it a TargetGroupBinding in the cluster says (modules/platform).

locals {
  is_http   = var.kind == "application"
  has_tls   = var.certificate_arn != null
  port      = local.has_tls ? 443 : 80
  sources   = length(var.allowed_cidrs) > 0 ? var.allowed_cidrs : [var.vpc_cidr]
  pod_port  = 8080 # of Kourier's gateway
  idle_time = var.request_timeout_seconds + 10
  ports     = local.is_http && local.has_tls ? [80, 443] : [local.port]
}

resource "aws_security_group" "this" {
  name        = "${var.name}-ingress"
  description = "Load balancer in front of Kourier"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-ingress" })
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = { for pair in setproduct(local.sources, local.ports) : "${pair[0]}-${pair[1]}" => { cidr = pair[0], port = pair[1] } }

  security_group_id = aws_security_group.this.id
  description       = "Clients"
  cidr_ipv4         = each.value.cidr
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "kourier" {
  security_group_id            = aws_security_group.this.id
  description                  = "Kourier's pods, and their health"
  referenced_security_group_id = var.node_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.pod_port
  to_port                      = local.pod_port
  tags                         = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "nodes" {
  security_group_id            = var.node_security_group_id
  description                  = "Kourier's pods from the load balancer"
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = local.pod_port
  to_port                      = local.pod_port
  tags                         = var.tags
}

resource "aws_lb" "this" {
  name                             = "${var.name}-ingress"
  load_balancer_type               = var.kind
  internal                         = !var.public
  subnets                          = var.subnet_ids
  security_groups                  = [aws_security_group.this.id]
  enable_deletion_protection       = var.deletion_protection
  enable_cross_zone_load_balancing = true
  tags                             = var.tags

  # What only an application load balancer knows.
  idle_timeout               = local.is_http ? local.idle_time : null
  drop_invalid_header_fields = local.is_http ? true : null
  desync_mitigation_mode     = local.is_http ? "defensive" : null
  preserve_host_header       = local.is_http ? true : null

  dynamic "access_logs" {
    for_each = var.access_logs_bucket == null ? [] : [var.access_logs_bucket]
    content {
      bucket  = access_logs.value
      prefix  = var.name
      enabled = true
    }
  }
}

resource "aws_lb_target_group" "this" {
  name        = "${var.name}-ingress"
  vpc_id      = var.vpc_id
  target_type = "ip"
  port        = local.pod_port
  protocol    = local.is_http ? "HTTP" : "TCP"
  # As long as a request may take: nobody is cut off because a pod of Kourier goes.
  deregistration_delay = var.request_timeout_seconds
  tags                 = var.tags

  # Kourier answers 404 to a host that it does not know, which says that it lives.
  health_check {
    protocol            = local.is_http ? "HTTP" : "TCP"
    path                = local.is_http ? "/" : null
    matcher             = local.is_http ? "200,404" : null
    interval            = 10
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "this" {
  load_balancer_arn = aws_lb.this.arn
  port              = local.port
  protocol          = local.is_http ? (local.has_tls ? "HTTPS" : "HTTP") : (local.has_tls ? "TLS" : "TCP")
  certificate_arn   = var.certificate_arn
  ssl_policy        = local.has_tls ? "ELBSecurityPolicy-TLS13-1-2-2021-06" : null
  alpn_policy       = !local.is_http && local.has_tls ? "HTTP2Preferred" : null
  # An idle connection of TCP lives as long as the longest request; TLS listeners have 350 s fixed.
  tcp_idle_timeout_seconds = local.is_http || local.has_tls ? null : max(60, local.idle_time)
  tags                     = var.tags

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

resource "aws_lb_listener" "redirect" {
  count = local.is_http && local.has_tls ? 1 : 0

  load_balancer_arn = aws_lb.this.arn
  port              = 80
  protocol          = "HTTP"
  tags              = var.tags

  default_action {
    type = "redirect"
    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_308"
    }
  }
}
