"""Talk to the agent in a guest. Every byte that comes from there is bounded and checked."""
