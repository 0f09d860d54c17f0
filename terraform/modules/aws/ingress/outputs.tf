output "ingress" {
  description = "For the contract: the target group that Kourier's pods join, and the address to call."
  value = {
    target_group = { arn = aws_lb_target_group.this.arn, port = 80 }
    address      = aws_lb.this.dns_name
  }
  depends_on = [aws_lb_listener.this]
}
