"""What is learned from what: one folder a system, on the floor that all systems share (`systems.base`)."""
