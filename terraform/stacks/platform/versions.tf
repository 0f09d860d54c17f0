terraform {
  required_version = ">= 1.11, < 2.0"
  required_providers {
    helm = {
      source  = "hashicorp/helm"
      version = ">= 3.0, < 4.0"
    }
  }

  # State: README.md, "Where the state lies".
  #
  # backend "s3" {
  #   bucket       = "STATE-BUCKET"
  #   key          = "saccade/platform.tfstate"
  #   region       = "eu-central-1"
  #   encrypt      = true
  #   use_lockfile = true
  # }
  #
  # backend "gcs" {
  #   bucket = "STATE-BUCKET"
  #   prefix = "saccade/platform"
  # }
}
