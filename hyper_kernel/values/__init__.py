"""How values go into sandboxes and come out of them: as data, never as a pickle."""
