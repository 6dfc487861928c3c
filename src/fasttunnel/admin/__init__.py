"""The admin port: metrics, health and status of one end, for its operator and for whatever watches it."""
