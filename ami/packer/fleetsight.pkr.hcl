# The image by Packer, for those who have it already; `fleetsight bake` needs nothing but this project.
#
#   .venv/bin/python -m ami.archive source.tar.gz        # in the project's folder; a bundle's folder may follow
#   packer init ami/packer
#   packer build -var role=worker -var archive=source.tar.gz ami/packer
#
# It prints the image's id. Put it where the stack looks for it: SSM parameter /PREFIX/image/worker, or web.

packer {
  required_version = ">= 1.9"
  required_plugins {
    amazon = {
      version = ">= 1.3.0"
      source  = "github.com/hashicorp/amazon"
    }
  }
}

variable "role" {
  type        = string
  description = "worker or web"
  validation {
    condition     = contains(["worker", "web"], var.role)
    error_message = "The role must be worker or web."
  }
}

variable "archive" {
  type        = string
  description = "The source archive"
}

variable "prefix" {
  type        = string
  default     = "fleetsight"
  description = "The stack's: the tag fleetsight of everything that is made"
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "version" {
  type        = string
  default     = "unknown"
  description = "For the tag; version.json in the image has it in any case, as commit and bundle"
}

variable "commit" {
  type    = string
  default = "unknown"
}

variable "bundle" {
  type        = string
  default     = "unknown"
  description = "The bundle's digest"
}

locals {
  tags = {
    Name               = "${var.prefix}-${var.role}"
    fleetsight         = var.prefix
    fleetsight-role    = var.role
    fleetsight-version = var.version
    fleetsight-commit  = var.commit
    fleetsight-bundle  = var.bundle
  }
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = "c7a.large"
  ami_name      = "${var.prefix}-${var.role}-${formatdate("YYYYMMDDhhmmss", timestamp())}"
  ssh_username  = "admin"

  # Debian's own account: https://wiki.debian.org/Cloud/AmazonEC2Image/Bookworm
  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0"

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 8
    delete_on_termination = true
  }

  tags          = local.tags
  snapshot_tags = local.tags
  run_tags      = local.tags
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = var.archive
    destination = "/tmp/source.tar.gz"
  }

  # The user that Packer came as goes with the script, so what is temporary goes first.
  provisioner "shell" {
    inline = [
      "cloud-init status --wait > /dev/null",
      "sudo mkdir -p /run/fleetsight-source",
      "sudo tar -xzf /tmp/source.tar.gz -C /run/fleetsight-source",
      "rm /tmp/source.tar.gz",
      "sudo bash /run/fleetsight-source/ami/provision.sh --role ${var.role} --source /run/fleetsight-source --agents",
    ]
    skip_clean = true
  }
}
