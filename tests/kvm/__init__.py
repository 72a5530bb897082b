"""The hardware path (KVM, vhost-vsock) tested inside an emulated machine that has it."""
