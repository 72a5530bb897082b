"""The QEMU driver. Nothing outside this folder imports ``qemu.qmp``."""
