"""The machinery of a generated package, run on a virtual clock over an in-memory broker that fails by plan."""
