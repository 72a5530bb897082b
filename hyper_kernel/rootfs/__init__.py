"""What a sandbox boots from: the guest's kernel and system image, and the disk of an OCI image."""
