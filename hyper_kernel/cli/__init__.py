"""``hyper``, the command line: each module a few commands, loaded when one of them is used."""
