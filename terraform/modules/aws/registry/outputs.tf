output "registry" {
  description = "The registry's host, and the repositories of the images predictor, transformer and plan_builder."
  value = {
    host   = split("/", aws_ecr_repository.this["predictor"].repository_url)[0]
    images = { for use, repository in aws_ecr_repository.this : replace(use, "-", "_") => repository.repository_url }
  }
}
