"""What the server answers, by resource; see rest-api.yml."""
