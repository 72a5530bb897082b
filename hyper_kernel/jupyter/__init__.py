"""Jupyter's doors: the kernel provisioner and the kernelspec."""
