output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "Private subnets by zone; there once they can reach what nodes need."
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
  # Nodes start in these, and go when these do: with their ways out and the endpoints still there.
  depends_on = [aws_route.out, aws_route_table_association.private, aws_vpc_endpoint.s3, aws_vpc_endpoint.interface, aws_vpc_security_group_ingress_rule.endpoints]
}

output "public_subnet_ids" {
  description = "Public subnets by zone."
  value       = { for zone, subnet in aws_subnet.public : zone => subnet.id }
  depends_on  = [aws_route.internet, aws_route_table_association.public]
}

output "nat_addresses" {
  description = "Public addresses from which the nodes call out, for others' allow lists."
  value       = [for address in aws_eip.nat : address.public_ip]
}
