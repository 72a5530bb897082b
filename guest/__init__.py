"""What runs in a sandbox's virtual machine: process 1, which is also the agent that the host talks to.

Standard library only, and of the host's package only ``wire``: the system image carries nothing else. Everything
here is started under software emulation too, where an import costs nine times what it costs on the host.
"""
