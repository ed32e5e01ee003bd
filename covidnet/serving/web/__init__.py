"""The web application: a page and a REST endpoint that keep uploads in memory."""
