"""The data sets of reasoning-gym as tasks of dmpo."""
