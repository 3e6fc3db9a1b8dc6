"""One endpoint for a whole class: keys, limits, connections, somebody's account behind it."""
