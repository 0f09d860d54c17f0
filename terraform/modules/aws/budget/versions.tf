terraform {
  required_version = ">= 1.9, < 2.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.9, < 7.0" # 6.9: deletion_protection of aws_eks_cluster
    }
  }
}
