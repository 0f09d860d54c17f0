output "registry" {
  description = "The registry's host, and the repositories of the images predictor and transformer."
  value = {
    host   = split("/", aws_ecr_repository.this["predictor"].repository_url)[0]
    images = { for use, repository in aws_ecr_repository.this : use => repository.repository_url }
  }
}
