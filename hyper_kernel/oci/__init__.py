"""OCI images: the store that keeps them, and drivers for the tools that read and write them."""
